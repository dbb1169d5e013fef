//! Runs the installer beside the conversation with the provisioner: it works in a thread of its own, its progress and
//! its one question go through a channel.

use super::machine::Machine;
use super::network::port_to;
use super::timeline::uptime_ms;
use crate::detect::disks;
use crate::install::failed::Failed;
use crate::install::machine::{Caller, Machine as Target};
use crate::install::plan::Sizes;
use crate::install::run::{Event, Job, run};
use crate::net::find::Found;
use crate::talk::Provisioner;
use anyhow::Context;
use muster_protocol::inventory::Disk;
use muster_protocol::order::Order;
use muster_protocol::signed::Verified;
use muster_protocol::status::{Progress, State};
use muster_protocol::sync::{Claim, ClaimAnswer};
use std::path::Path;
use std::sync::mpsc as answers;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// What comes out of the installer's thread.
enum Said {
    Event(Event),
    Claim(Box<Claim>, answers::Sender<Result<ClaimAnswer, String>>),
}

/// Progress within a step is told this often (design §12: status push 1 s during a step); finished steps at once.
const PUSH: Duration = Duration::from_secs(1);

/// Installs; on success the disk is marked and the machine is to be rebooted.
pub(super) fn install(
    machine: &mut Machine,
    order: &Verified<Order>,
    mut provisioner: Box<Provisioner>,
    found: Found,
) -> anyhow::Result<()> {
    if let Some(ours) = &mut machine.ours {
        ours.release()?;
    }
    machine.coldplug.load("ext4");
    machine.failure = None;
    machine.show(State::Installing, None);
    let (trust, key) = (machine.trust()?.clone(), machine.key()?.secret.clone());
    let (arch, now) = (machine.inventory()?.arch, Some(super::clock::now(&trust)));
    let background = machine.background.take().context("the network was not started")?;
    let (say, said) = mpsc::unbounded_channel();

    let done = std::thread::scope(|scope| {
        let worker = scope.spawn(move || -> Result<(), Failed> {
            let workers = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4));
            let job = Job { order, trust: &trust, key: &key, arch, sizes: Sizes::DESIGN, workers, now };
            let caller = Lent { ask: say.clone() };
            let mut target = Target::new("/".into(), found.http, caller);
            run(&job, &mut target, &mut |event| {
                // Nobody listens only when PID 1 is on its way out.
                let _gone = say.send(Said::Event(event));
            })
        });
        background.run(listen(machine, &mut provisioner, found, said));
        worker.join()
    });
    machine.background = Some(background);
    let done = match done {
        Ok(done) => done.map_err(anyhow::Error::new),
        // The panic hook has spoken its last words already; this is for builds that unwind.
        Err(_) => Err(anyhow::anyhow!("the installer's thread died")),
    };
    match &done {
        Ok(()) => machine.show(State::Booting, Some("installed; restarting from the disk")),
        Err(error) => {
            machine.failure = Some(format!("{error:#}"));
            machine.attempts.failed(order.get().number, error.downcast_ref::<Failed>());
            // It may have written: what was seen on the disks before is not true any more.
            machine.forget_contents();
            machine.show(State::Failed, None);
        }
    }
    last_report(machine, &mut provisioner, found, done.is_ok().then(|| order.get().number));
    done
}

/// What PID 1 lends the installer.
struct Lent {
    ask: mpsc::UnboundedSender<Said>,
}

impl Caller for Lent {
    fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, String> {
        claim_over(&self.ask, claim)
    }

    fn disks(&mut self) -> Vec<Disk> {
        disks::read(Path::new("/"))
    }

    /// The last report goes out first; then PID 1 reboots.
    fn reboot(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn claim_over(ask: &mpsc::UnboundedSender<Said>, claim: &Claim) -> Result<ClaimAnswer, String> {
    let (answer, answered) = answers::channel();
    let gone = |_| "the conversation with the provisioner has ended".to_owned();
    ask.send(Said::Claim(Box::new(claim.clone()), answer)).map_err(|_| gone(()))?;
    answered.recv().map_err(|_| gone(()))?
}

/// Until the installer's thread has dropped its ends.
async fn listen(
    machine: &mut Machine,
    provisioner: &mut Provisioner,
    found: Found,
    mut said: mpsc::UnboundedReceiver<Said>,
) {
    let mut told = Instant::now();
    let mut step: Option<Progress> = None;
    while let Some(one) = said.recv().await {
        let push = match one {
            Said::Claim(claim, answer) => {
                let said = provisioner.claim(&claim).await;
                // The installer has given up when it no longer waits.
                let _gone = answer.send(said.map_err(|error| format!("{:#}", anyhow::Error::new(error))));
                false
            }
            Said::Event(Event::Note(note)) => {
                tracing::info!("{note}");
                false
            }
            Said::Event(Event::Progress(progress)) => {
                let new = step.as_ref().is_none_or(|step| step.step != progress.step);
                if new {
                    tracing::info!("step {} begins", progress.step);
                }
                step = Some(progress);
                new || told.elapsed() >= PUSH
            }
            Said::Event(Event::Done(stage)) => {
                tracing::info!("step {} done in {} ms", stage.step, stage.ms);
                machine.timeline.push(stage);
                true
            }
        };
        if push {
            told = Instant::now();
            push_report(machine, provisioner, found, step.clone()).await;
        }
    }
}

/// Reports must not hold up the installer, which waits for nobody but the claim.
async fn push_report(
    machine: &mut Machine,
    provisioner: &mut Provisioner,
    found: Found,
    step: Option<Progress>,
) {
    let mac = port_to(&machine.ports(), Some(found.api.ip())).map(|port| port.mac);
    let sent = match machine.report(step, mac) {
        Ok(report) => provisioner.report(&report).await.map(drop).map_err(anyhow::Error::new),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!("the report did not arrive: {error:#}");
    }
}

fn last_report(
    machine: &mut Machine,
    provisioner: &mut Provisioner,
    found: Found,
    installed: Option<muster_protocol::ids::Number>,
) {
    let Some(background) = machine.background.take() else { return };
    background.run(async {
        let mac = port_to(&machine.ports(), Some(found.api.ip())).map(|port| port.mac);
        let Ok(mut report) = machine.report(None, mac) else { return };
        report.installed = installed.or(report.installed);
        if let Err(error) = provisioner.report(&report).await {
            // After the reboot, `hello` carries the marker, which says the same.
            tracing::warn!(%error, at = uptime_ms(), "the last report did not arrive");
        }
    });
    machine.background = Some(background);
}
