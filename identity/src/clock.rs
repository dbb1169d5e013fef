//! Who keeps this machine's clock.

/// Whether an NTP client does, in the kernel's own words (adjtimex(2)).
pub fn is_synchronised() -> bool {
    // SAFETY: all-zero is a valid `timex`; modes 0 makes adjtimex only read, into a buffer that we own.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (state, timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}
