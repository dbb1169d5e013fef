//! Ctrl-C and SIGTERM as an event that every wait of the lab sees, so that the teardown runs and nothing is left behind.
//!
//! A signal only writes to a pipe; the waits look at the pipe, return `Stopped`, and the drops do the rest. The crate's
//! `unsafe` is here: std has no signals, and nix's `sigaction` is unsafe because of what a handler may do.

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

static PIPE: OnceLock<(PipeReader, PipeWriter)> = OnceLock::new();
static WRITE_END: AtomicI32 = AtomicI32::new(-1);

/// A person or a supervisor asked the lab to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped by a signal")
    }
}

impl std::error::Error for Stopped {}

/// Takes SIGINT, SIGTERM and SIGHUP over for this process. Programs started later have the default again.
pub fn install() -> Result<()> {
    let pipe = std::io::pipe().context("signal pipe")?;
    let write_end = pipe.1.as_raw_fd();
    if PIPE.set(pipe).is_err() {
        // installed before; the first pipe stays
        return Ok(());
    }
    WRITE_END.store(write_end, Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(noted), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler calls only write(2), which is async-signal-safe, on a descriptor that is never closed.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handler for {signal}"))?;
    }
    Ok(())
}

extern "C" fn noted(_: libc::c_int) {
    let fd = WRITE_END.load(Ordering::SeqCst);
    // SAFETY: one byte from a constant to our own pipe; a full pipe only means that we are stopped already.
    unsafe { libc::write(fd, b"!".as_ptr().cast(), 1) };
}

pub fn requested() -> bool {
    pause(Duration::ZERO).is_err()
}

/// Lets `time` go by, or returns at once when the lab is to end.
pub fn pause(time: Duration) -> Result<(), Stopped> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // round up, or the last millisecond is a busy loop
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<PollFd<'_>> =
            PIPE.get().map(|(read, _)| PollFd::new(read.as_fd(), PollFlags::POLLIN)).into_iter().collect();
        match poll(&mut fds, timeout) {
            Ok(0) if Instant::now() >= until => return Ok(()),
            Ok(0) | Err(_) => {}
            // the byte stays in the pipe: every later wait sees it too
            Ok(_) => return Err(Stopped),
        }
    }
}
