//! PID 1 of the boot image. Its life is one table of named phases; then it asks, and does what it is told.
//!
//! It never exits and never panics on input: what cannot go on says its last words on the console and reboots.

/// The table of phases.
mod phases;

/// What one boot knows so far.
mod machine;
/// Stages and their times.
pub mod timeline;

/// The thread that drives it.
mod background;
/// Never before the image's own time.
pub mod clock;
/// Drivers for what is there.
pub mod coldplug;
/// Which disk is ours.
mod disks;
/// The node key.
mod key;
/// Who started this kernel.
mod loader;
/// Which module a device wants.
mod modules;
/// The kernel's file systems.
mod mounts;
/// Addresses on every port with a link.
mod network;
/// Detection, and what lies on the disks.
mod survey;

/// Finding the provisioner and asking it.
mod ask;
/// What to do with an answer, or with none.
mod decide;
/// How this boot is, for the provisioner.
mod report;

/// How often an order was tried.
mod attempts;
/// Into an installed slot.
mod boot;
/// What is left for systemd and the node service.
mod handover;
/// The installer beside the conversation.
mod install;
/// An empty data partition becomes a `/var`.
mod skeleton;

/// Last words, reboot, orphans.
mod end;

use crate::log::Log;
use anyhow::Context;
use ask::Decision;
use boot::NoBoot;
use machine::Machine;
use std::time::Duration;

/// After an install that stopped, before asking again: the provisioner may say something else by then, and a person
/// can read the console.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The whole life of PID 1 in the boot image.
pub fn run() -> ! {
    let began_ms = timeline::uptime_ms();
    let log = Log::of_pid_1().install();
    let kernel = kernel_release();
    // Before anything else: it dates this program's first moment, and waits for a console like all that is said early.
    tracing::info!("muster-agent {} as PID 1, kernel {kernel}", env!("CARGO_PKG_VERSION"));
    end::prepare(log);
    let mut machine = Machine::new(log, kernel, began_ms);
    let failed = live(&mut machine);
    end::last_words(&machine.face(), &format!("{failed:#}"))
}

/// Returns only with the reason why it cannot go on.
fn live(machine: &mut Machine) -> anyhow::Error {
    if let Err(error) = phases::run(machine, phases::PHASES) {
        return error;
    }
    loop {
        let done = ask_and_act(machine).and_then(|end| end.map_or(Ok(()), |end| leave(machine, end)));
        if let Err(error) = done {
            return error;
        }
        end::reap();
    }
}

/// What this boot comes to, once it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The disk is installed and marked: it is the next boot's.
    Restart,
    /// Into the first of these slots that can be mounted.
    Boot { slots: Vec<usize> },
}

/// A whole boot up to its end, on a kernel that stays as it is: nothing is mounted but the data partition, no driver
/// loaded, no clock set, and neither reboot nor `switch_root` follows. `/` is this machine, so that a test makes one
/// out of a folder, a namespace and a file for its disk (`tests/install`).
pub fn rehearse(log: &'static Log) -> anyhow::Result<End> {
    let mut machine = Machine::new(log, kernel_release(), timeline::uptime_ms());
    phases::run(&mut machine, phases::PHASES.iter().filter(|phase| !phase.kernel))?;
    loop {
        if let Some(end) = ask_and_act(&mut machine)? {
            return Ok(end);
        }
        end::reap();
    }
}

fn kernel_release() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// One question, one deed. `None` when asking again is right.
fn ask_and_act(machine: &mut Machine) -> anyhow::Result<Option<End>> {
    match phases::timed("ask", || in_background(machine))? {
        Decision::StartOver => again(machine),
        Decision::Install { order, provisioner, found } => {
            match install::install(machine, &order, provisioner, found) {
                Ok(()) => Ok(Some(End::Restart)),
                Err(error) => {
                    tracing::error!("{error:#}");
                    end::pause(AFTER_FAILURE);
                    again(machine)
                }
            }
        }
        Decision::Boot { slots } => Ok(Some(End::Boot { slots })),
    }
}

fn again(machine: &mut Machine) -> anyhow::Result<Option<End>> {
    phases::run(machine, phases::PHASES.iter().filter(|phase| phase.again)).map(|()| None)
}

/// Returns when asking again is right.
fn leave(machine: &mut Machine, end: End) -> anyhow::Result<()> {
    match end {
        End::Restart => end::reboot(),
        End::Boot { slots } => match boot::boot(machine, &slots) {
            NoBoot::Broken(error) => Err(error.context("the installed system cannot be started")),
            NoBoot::NoSlot(why) => {
                if let Some(ours) = &mut machine.ours {
                    ours.unbootable = Some(why);
                    // Only an order by hand helps now, and that needs to know what is on the disk.
                    ours.release()?;
                }
                survey::look(machine, std::path::Path::new("/"));
                Ok(())
            }
        },
    }
}

fn in_background(machine: &mut Machine) -> anyhow::Result<Decision> {
    let background = machine.background.take().context("the network was not started")?;
    let mut net = machine.net.take().context("the network was not started")?;
    let decision = background.run(ask::ask(machine, &mut net));
    machine.net = Some(net);
    machine.background = Some(background);
    decision
}

/// Random bits for jitter.
fn luck() -> anyhow::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).context("asking for random bytes")?;
    Ok(u16::from_le_bytes(bytes))
}
