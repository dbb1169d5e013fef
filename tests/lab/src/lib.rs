//! The lab: a LAN from network namespaces, machines in QEMU, disks that lose what was not flushed, and verbs for tests.
//! It starts the real binaries and knows nothing of their insides but the marker on a disk. See `docs/lab.md`.

// the place
pub mod lan;
// the machines in it
pub mod fleet;
pub mod machine;
pub mod nbd;
// what a run left, read without asking Muster
mod evidence;
// what is done with them from the command line
pub mod arguments;
pub mod demo;
pub mod faults;
pub mod trial;
pub mod up;
// what all of them lean on
pub mod child;
mod luck;
pub mod stop;

pub use luck::Luck;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A lock whose holder panicked still guards good data here: each holder leaves it whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Host clock, milliseconds since 1970.
pub fn clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// Waits for something that gives no event to wait on, at most two seconds.
pub(crate) fn settle(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    for _ in 0..100 {
        if done() {
            return Ok(());
        }
        stop::pause(Duration::from_millis(20))?;
    }
    anyhow::bail!("{what} did not happen in two seconds")
}
