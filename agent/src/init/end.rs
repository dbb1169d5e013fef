//! How a boot that cannot go on ends: it says why, gives a person time to read it, and reboots. PID 1 never returns.

use crate::console::{self, Face};
use crate::log::Log;
use nix::poll::PollTimeout;
use nix::sys::reboot::{RebootMode, reboot as reboot_now, set_cad_enabled};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time to read, or to take a photo (design §12).
const LAST_WORDS: Duration = Duration::from_secs(30);

static LOG: OnceLock<&'static Log> = OnceLock::new();

/// A panic anywhere ends like any other failure, instead of as a kernel panic with registers. Ctrl-Alt-Del does
/// nothing: a cat on a keyboard must not cut an install short.
pub(super) fn prepare(log: &'static Log) {
    if LOG.set(log).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            last_words(&Face::default(), &format!("bug in the agent: {panic}"))
        }));
    }
    if let Err(error) = set_cad_enabled(false) {
        tracing::debug!(%error, "Ctrl-Alt-Del stays on");
    }
}

/// Tells `why` on every console, waits and reboots.
pub(super) fn last_words(face: &Face, why: &str) -> ! {
    tracing::error!("{}", why.replace('\n', "; "));
    if let Some(log) = LOG.get() {
        let face = Face { state: "failed".into(), reason: Some(why.replace('\n', " - ")), ..face.clone() };
        log.show(&console::block(&face));
    }
    tracing::error!("rebooting in {} seconds", LAST_WORDS.as_secs());
    pause(LAST_WORDS);
    reboot()
}

/// Flushes and restarts the machine.
pub(super) fn reboot() -> ! {
    nix::unistd::sync();
    let refused = reboot_now(RebootMode::RB_AUTOBOOT);
    tracing::error!(?refused, "the kernel refuses to reboot");
    // Ending PID 1 is a kernel panic, and `panic=30` on the command line a reboot.
    std::process::exit(1)
}

/// Waits without a thread to sleep in: this is PID 1, and it has nothing else to do. Orphans are reaped meanwhile.
pub(super) fn pause(time: Duration) {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let piece = u16::try_from(left.as_millis().min(1000)).unwrap_or(1000);
        // Nothing is polled for; only the time limit counts.
        let _passed = nix::poll::poll(&mut [], PollTimeout::from(piece.max(1)));
        reap();
    }
}

/// Takes leave of processes whose parents are gone. Called only while none of our own children runs, because it would
/// take their exit codes away from whoever waits for them.
pub(super) fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
