//! The boot as one table: what happens in which order, and what it means when it fails.

use super::background::Background;
use super::disks::{choose, is_settled, markers};
use super::machine::Machine;
use super::network::{Net, Setup};
use super::timeline::uptime_ms;
use super::{clock, coldplug, decide, end, key, loader, mounts, survey};
use crate::install::bootentry::Variables;
use crate::install::efivars::Efivars;
use anyhow::Context;
use muster_protocol::ids::InstanceId;
use muster_protocol::inventory::Inventory;
use muster_protocol::marker::MarkerState;
use muster_protocol::wire;
use std::path::Path;
use std::time::Duration;

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Nothing sensible can follow: last words, reboot.
    Ends,
    /// It is told and the boot goes on.
    IsTold,
}

pub(super) struct Phase {
    name: &'static str,
    run: fn(&mut Machine) -> anyhow::Result<()>,
    failure: Failure,
    /// Part of starting over when a disk came late or an install stopped.
    pub again: bool,
    /// Changes the kernel it runs on: its mounts, its drivers, its clock.
    pub kernel: bool,
}

/// In this order. After them come `ask` and what it decides.
pub(super) const PHASES: &[Phase] = &[
    Phase {
        name: "mounts",
        run: |_| mounts::mount_all(),
        failure: Failure::Ends,
        again: false,
        kernel: true,
    },
    Phase { name: "console", run: console, failure: Failure::IsTold, again: false, kernel: false },
    Phase { name: "modules", run: modules, failure: Failure::IsTold, again: false, kernel: true },
    Phase { name: "links", run: links, failure: Failure::Ends, again: false, kernel: false },
    Phase { name: "loader", run: |_| loader::tell(), failure: Failure::IsTold, again: false, kernel: false },
    Phase { name: "trust", run: trust, failure: Failure::Ends, again: false, kernel: false },
    Phase {
        name: "clock",
        run: |machine| clock::floor(machine.trust()?),
        failure: Failure::IsTold,
        again: false,
        kernel: true,
    },
    Phase { name: "disks", run: disks, failure: Failure::IsTold, again: true, kernel: false },
    Phase { name: "key", run: node_key, failure: Failure::Ends, again: true, kernel: false },
    Phase { name: "network", run: network, failure: Failure::Ends, again: true, kernel: false },
    Phase { name: "detect", run: detect, failure: Failure::IsTold, again: true, kernel: false },
];

pub(super) fn run<'a>(
    machine: &mut Machine,
    phases: impl IntoIterator<Item = &'a Phase>,
) -> anyhow::Result<()> {
    for phase in phases {
        let done = timed(phase.name, || (phase.run)(machine));
        match (done, phase.failure) {
            (Ok(()), _) => {}
            (Err(error), Failure::Ends) => return Err(error.context(format!("step `{}` failed", phase.name))),
            (Err(error), Failure::IsTold) => tracing::warn!("step {} failed: {error:#}", phase.name),
        }
    }
    Ok(())
}

/// One line for each step: what the lab and a person with a stopwatch read.
pub(super) fn timed<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = uptime_ms();
    let done = work();
    if done.is_ok() {
        tracing::info!("step {name} done in {} ms", uptime_ms().saturating_sub(started));
    }
    done
}

/// Who this boot is, and where its lines go.
fn console(machine: &mut Machine) -> anyhow::Result<()> {
    machine.log.attach(Path::new("/"));
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    let short: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    machine.boot = short.parse::<InstanceId>().context("reading the boot id")?;
    Ok(())
}

fn modules(machine: &mut Machine) -> anyhow::Result<()> {
    if !machine.coldplug.has_modules() {
        tracing::warn!(
            kernel = machine.kernel,
            "no modules for this kernel; only what is built in will work"
        );
    }
    coldplug::answer_the_kernel().context("becoming the kernel's modprobe")?;
    // A pass brings buses up, the next one finds what sits on them.
    let mut loaded = 0;
    loop {
        match machine.coldplug.pass() {
            0 => break,
            new => loaded += new,
        }
    }
    for module in ["efivarfs", "efi_pstore"] {
        machine.coldplug.load(module);
    }
    tracing::info!(loaded, "drivers");
    mounts::mount_efivars()
}

/// Where UKI composition puts the cluster's trust file.
const TRUST: &str = "/etc/muster/trust";

fn trust(machine: &mut Machine) -> anyhow::Result<()> {
    let bytes = std::fs::read(TRUST).with_context(|| {
        format!("reading {TRUST}\nhint: compose the image with `muster image build`; base parts alone have no cluster")
    })?;
    let trust = wire::decode(&bytes).with_context(|| format!("reading {TRUST}"))?;
    machine.trust = Some(trust);
    Ok(())
}

/// Waits for the controllers, finds this cluster's disk, mounts its data partition.
fn disks(machine: &mut Machine) -> anyhow::Result<()> {
    const LOOK_MS: u64 = 50;
    let cluster = machine.trust()?.cluster;
    let (started, mut changed, mut known) = (uptime_ms(), uptime_ms(), None);
    let found = loop {
        if machine.coldplug.pass() > 0 {
            changed = uptime_ms();
        }
        let names: Vec<String> =
            crate::detect::disks::read(Path::new("/")).into_iter().map(|disk| disk.name).collect();
        let any = !names.is_empty();
        let mut ours = None;
        if known.as_ref() != Some(&names) {
            (known, changed) = (Some(names), uptime_ms());
            ours = choose(markers(Path::new("/")), cluster);
        }
        let installed = ours.as_ref().is_some_and(|ours| ours.marker.state == MarkerState::Installed);
        let now = uptime_ms();
        if is_settled(installed, any, now.saturating_sub(changed), now.saturating_sub(started)) {
            // Read once more where the last look brought nothing new.
            break ours.or_else(|| choose(markers(Path::new("/")), cluster));
        }
        end::pause(Duration::from_millis(LOOK_MS));
    };
    tracing::info!(disks = known.unwrap_or_default().join(","), "disks");
    let already = machine.ours.take().filter(|ours| ours.mounted);
    machine.ours = found;
    let Some(ours) = &mut machine.ours else { return Ok(()) };
    tracing::info!(disk = ours.name, node = %ours.marker.node, order = %ours.marker.order, state = ?ours.marker.state, "marker");
    if let Some(mut already) = already {
        if already.name == ours.name {
            ours.mounted = true;
            return Ok(());
        }
        already.release()?;
    }
    if ours.marker.state == MarkerState::Installed {
        ours.mount_data(&mut machine.coldplug);
    }
    if ours.mounted {
        machine.numbers = Machine::held().numbers().context("reading the numbers this node has accepted")?;
    }
    Ok(())
}

fn detect(machine: &mut Machine) -> anyhow::Result<()> {
    survey::refresh(machine, Path::new("/"));
    let class = machine.class();
    let Inventory { arch, dmi, cpu, memory_bytes, disks, nics, pci, firmware, kvm: _ } =
        machine.inventory()?;
    let said = |text: &Option<String>| text.clone().unwrap_or("none".into());
    tracing::info!(
        %class, %arch, vendor = said(&dmi.vendor), product = said(&dmi.product), serial = said(&dmi.serial),
        cpu = cpu.model, threads = cpu.threads, memory_mib = memory_bytes >> 20, disks = disks.len(),
        nics = nics.len(), pci = pci.len(), uefi = firmware.uefi, "machine"
    );
    if let Some(ours) = machine.ours.as_mut().filter(|ours| ours.mounted) {
        if !decide::slots(&ours.marker, &machine.kernel).is_empty() {
            return Ok(());
        }
        // Nothing on it can be started: only an order by hand helps, and that needs to know what is on it.
        ours.release()?;
    }
    survey::look(machine, Path::new("/"));
    Ok(())
}

fn node_key(machine: &mut Machine) -> anyhow::Result<()> {
    let mounted = machine.ours.as_ref().is_some_and(|ours| ours.mounted);
    let on_disk = if mounted { Machine::held().key() } else { Ok(None) };
    let on_disk = on_disk.unwrap_or_else(|error| {
        tracing::error!("{:#}", anyhow::Error::new(error));
        None
    });
    let mut variables = Efivars::at(Path::new("/"), key::VENDOR);
    let firmware = variables.as_mut().map(|variables| variables as &mut dyn Variables);
    let key = key::find(on_disk, firmware, machine.key.take().map(|key| key.secret), || {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("asking for random bytes")?;
        Ok(seed)
    })?;
    if let Some(error) = variables.and_then(|variables| variables.hide(key::NAME).err()) {
        tracing::warn!(%error, "the node key in the firmware can be read by others than root");
    }
    let public = key.secret.public();
    tracing::info!(fingerprint = %public.fingerprint(), kept = ?key.kept, "node key");
    machine.key = Some(key);
    if mounted {
        let manifest = Machine::held().manifest(machine.trust()?, &public);
        match manifest {
            Ok(manifest) => machine.manifest = manifest.map(|manifest| manifest.get().clone()),
            // Without it the machine still boots; only its address is then asked from DHCP.
            Err(error) => tracing::error!("{:#}", anyhow::Error::new(error)),
        }
    }
    Ok(())
}

/// Starts the network's thread: links come up from here on, whatever PID 1 does.
fn links(machine: &mut Machine) -> anyhow::Result<()> {
    let background = Background::start()?;
    // Not from getrandom: that blocks until the kernel has gathered entropy, 1.6 s on an arm64 machine without a source
    // of it, and this is jitter only.
    let [a, b, c, d, ..] = machine.boot.0;
    let net = background.run(async { Net::start(u32::from_le_bytes([a, b, c, d])) })?;
    machine.ports = Some(net.ports.clone());
    machine.net = Some(net);
    machine.background = Some(background);
    Ok(())
}

/// Now that the disk was looked at, it is known where addresses come from.
fn network(machine: &mut Machine) -> anyhow::Result<()> {
    let net = machine.net.as_ref().context("the network was not started")?;
    net.setup.send_replace(Setup::of(machine.manifest.as_ref()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_its_own_name_and_the_key_comes_before_the_network() {
        let names: Vec<&str> = PHASES.iter().map(|phase| phase.name).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        let at = |name| names.iter().position(|known| *known == name);
        assert!(at("disks") < at("key") && at("key") < at("network"));
    }
}
