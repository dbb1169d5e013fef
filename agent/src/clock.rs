//! The system's clock: who keeps it, and setting it.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// Whether an NTP client keeps the clock, in the kernel's own words (adjtimex(2)).
pub fn is_synchronised() -> bool {
    // SAFETY: all-zero is a valid `timex`; modes 0 makes adjtimex only read, into a buffer that we own.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (state, timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}

/// Sets it to Unix milliseconds.
pub fn set(unix_ms: u64) -> std::io::Result<()> {
    let secs = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(unix_ms % 1000 * 1_000_000).unwrap_or(0);
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(secs, nanos)).map_err(Into::into)
}
