//! Finding the provisioner and asking it until there is something to do.
//!
//! A machine whose disk can boot asks for a bounded time and then boots anyway; any other asks for ever.

use super::decide::{self, Next};
use super::disks;
use super::machine::Machine;
use super::network::{Net, port_to};
use super::survey;
use super::timeline::uptime_ms;
use crate::net::find::Found;
use crate::talk::Provisioner;
use anyhow::Context;
use muster_protocol::hello::Answer;
use muster_protocol::order::Order;
use muster_protocol::signed::Verified;
use muster_protocol::status::State;
use std::future::Future;
use std::path::Path;
use tokio::time::{Duration, Instant, sleep, timeout_at};

/// What comes after asking.
pub(super) enum Decision {
    Boot {
        slots: Vec<usize>,
    },
    Install {
        order: Box<Verified<Order>>,
        provisioner: Box<Provisioner>,
        found: Found,
    },
    /// A disk came up that changes who this machine is.
    StartOver,
}

/// How long a machine that can boot waits for an answer; the longer when a reinstall was announced, since spanning
/// tree alone may take 30 s (design §12).
fn patience(reinstall_pending: bool) -> Duration {
    Duration::from_secs(if reinstall_pending { 600 } else { 10 })
}

/// 5 s ± 20 %, so that machines that were switched on together do not ask in step.
fn retry(luck: u16) -> Duration {
    Duration::from_millis(4000 + u64::from(luck) % 2001)
}

/// What has not changed for this long is shown.
const LASTED: Duration = Duration::from_secs(2);

/// How often a machine that hears nobody says so in its log.
const REMIND: Duration = Duration::from_secs(30);

pub(super) async fn ask(machine: &mut Machine, net: &mut Net) -> anyhow::Result<Decision> {
    let alone = decide::next(&machine.me()?, None);
    let deadline = match (&alone, &machine.ours) {
        (Next::Boot { .. }, Some(ours)) => Some(Instant::now() + patience(ours.marker.reinstall_pending)),
        (Next::Boot { .. } | Next::Install(_) | Next::Wait { .. }, _) => None,
    };
    let mut failed = None;
    loop {
        let found = match within(deadline, find(machine, net, failed.as_deref())).await {
            Some(Some(found)) => found?,
            Some(None) => return Ok(Decision::StartOver),
            None => return silence(alone),
        };
        match within(deadline, converse(machine, net, found)).await {
            Some(Ok(decision)) => return Ok(decision),
            Some(Err(error)) => {
                tracing::warn!(provisioner = %found.api, "{error:#}");
                machine.provisioner = None;
                failed =
                    Some(format!("the provisioner at {} cannot be talked to: {error:#}", found.api.ip()));
                sleep(Duration::from_secs(1)).await;
            }
            None => return silence(alone),
        }
    }
}

fn silence(alone: Next) -> anyhow::Result<Decision> {
    match alone {
        Next::Boot { slots } => {
            tracing::info!("no answer in time; booting from the disk");
            Ok(Decision::Boot { slots })
        }
        // There is a deadline only where there is something to boot.
        Next::Install(_) | Next::Wait { .. } => {
            anyhow::bail!("waited for an answer with a deadline, but nothing to boot")
        }
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// The next beacon that is believed; `None` when the disks changed meanwhile. `failed` is how the last try ended: the
/// better reason to show.
async fn find(machine: &mut Machine, net: &mut Net, failed: Option<&str>) -> Option<anyhow::Result<Found>> {
    let trust = match machine.trust() {
        Ok(trust) => trust.clone(),
        Err(error) => return Some(Err(error)),
    };
    let delegation = machine.numbers.delegation;
    let mut reminded: Option<Instant> = None;
    // A beacon is heard on a port that has no address yet: kept until there is a way back.
    let mut heard: Option<Found> = None;
    loop {
        let ports = net.ports.borrow_and_update().clone();
        let (reason, addressed) = unheard(&ports);
        let reason = failed.filter(|_| addressed).unwrap_or(&reason);
        machine.now(State::Netbooted, Some(reason));
        if let Some(found) = heard.filter(|_| addressed) {
            tracing::info!(provisioner = %found.api, "provisioner found");
            return Some(Ok(found));
        }
        if addressed && reminded.is_none_or(|at| at.elapsed() >= REMIND) {
            tracing::info!("no provisioner found yet; listening on 7480/udp");
            reminded = Some(Instant::now());
        }
        tokio::select! {
            found = net.beacons.next(&trust, delegation) => {
                match found.context("listening for the provisioner") {
                    Ok(found) => heard = Some(found),
                    Err(error) => return Some(Err(error)),
                }
            }
            changed = net.ports.changed() => {
                if changed.is_err() {
                    return Some(Err(anyhow::anyhow!("the network's task has ended")));
                }
            }
            () = sleep(LASTED) => {
                machine.print();
                if disks_changed(machine) {
                    return None;
                }
            }
        }
    }
}

/// Why no provisioner is heard, as far as the ports tell.
fn unheard(ports: &[super::network::Port]) -> (String, bool) {
    if ports.is_empty() {
        ("no Ethernet port was found; its driver may be missing from this image".into(), false)
    } else if ports.iter().all(|port| !port.carrier) {
        ("no port has a link; is the cable plugged in?".into(), false)
    } else if ports.iter().all(|port| port.address.is_none()) {
        ("no address from DHCP yet".into(), false)
    } else {
        ("no provisioner found yet; is `muster serve` running on this LAN?".into(), true)
    }
}

/// Says hello until the answer is something to do. An error means: find it again.
async fn converse(machine: &mut Machine, net: &mut Net, found: Found) -> anyhow::Result<Decision> {
    let mut provisioner = Provisioner::new(found.api, machine.trust()?, &machine.key()?.secret)?;
    machine.provisioner = Some(found.api);
    machine.http_port = found.http.port();
    let mut told: Option<String> = None;
    loop {
        let ports = net.ports.borrow().clone();
        let mac = port_to(&ports, Some(found.api.ip())).context("no Ethernet port")?.mac;
        let answer = provisioner.hello(&machine.hello(mac)?).await?;
        let now = uptime_ms();
        if machine.timeline.follow("agent", now) {
            tracing::info!("step admitted begins");
        }
        if decide::is_admitted(&answer) {
            machine.timeline.follow("admitted", now);
        }
        match decide::next(&machine.me()?, Some(&answer)) {
            Next::Boot { slots } => {
                if let Answer::Install(_) = answer {
                    tracing::warn!("an install order did not count; booting from the disk");
                }
                tracing::info!("step boot begins");
                machine.show(State::Booting, None);
                tell(machine, &mut provisioner, mac).await;
                return Ok(Decision::Boot { slots });
            }
            Next::Install(order) => {
                let provisioner = Box::new(provisioner);
                return Ok(Decision::Install { order, provisioner, found });
            }
            Next::Wait { code, reason } => {
                // Asked every few seconds: a reason is told when it is new.
                if told.as_ref() != Some(&reason) {
                    tracing::info!(code, reason, "waiting");
                    told = Some(reason.clone());
                }
                machine.show(State::Waiting, Some(&reason));
                tell(machine, &mut provisioner, mac).await;
            }
        }
        sleep(retry(super::luck()?)).await;
        super::end::reap();
        if disks_changed(machine) {
            return Ok(Decision::StartOver);
        }
    }
}

/// A report that does not arrive stops nothing.
pub(super) async fn tell(
    machine: &mut Machine,
    provisioner: &mut Provisioner,
    mac: muster_protocol::ids::Mac,
) {
    let report = match machine.report(None, Some(mac)) {
        Ok(report) => report,
        Err(error) => return tracing::warn!("no report: {error:#}"),
    };
    if let Err(error) = provisioner.report(&report).await {
        let error = anyhow::Error::new(error);
        tracing::warn!("the report did not arrive: {error:#}");
    }
}

/// Looks for disks that came late; true when an installed one did.
fn disks_changed(machine: &mut Machine) -> bool {
    machine.coldplug.pass();
    let Ok(trust) = machine.trust() else { return false };
    let cluster = trust.cluster;
    let new = survey::refresh(machine, Path::new("/"));
    if !new {
        return false;
    }
    let ours = disks::choose(disks::markers(Path::new("/")), cluster);
    let name = |ours: &Option<disks::Ours>| ours.as_ref().map(|ours| (ours.name.clone(), ours.marker.order));
    if name(&ours) != name(&machine.ours) {
        tracing::info!("a disk with this cluster's marker came up late; starting over");
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_five_seconds_give_or_take_a_fifth() {
        for luck in [0, 1000, 2000, 2001, u16::MAX] {
            let wait = retry(luck);
            assert!(wait >= Duration::from_secs(4) && wait <= Duration::from_secs(6), "{wait:?}");
        }
    }

    #[test]
    fn an_announced_reinstall_is_waited_for_longer() {
        assert_eq!(patience(false), Duration::from_secs(10));
        assert_eq!(patience(true), Duration::from_secs(600));
    }
}
