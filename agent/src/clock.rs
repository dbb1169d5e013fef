//! Setting the system's clock.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// Sets it to Unix milliseconds.
pub fn set(unix_ms: u64) -> std::io::Result<()> {
    let secs = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(unix_ms % 1000 * 1_000_000).unwrap_or(0);
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(secs, nanos)).map_err(Into::into)
}
