//! A trap on a disk: the power goes in the very moment when a client asks for one certain change.
//!
//! The change that springs it is still taken, unflushed like any other; it and everything behind it stay unanswered until
//! the lab has killed the machine and cut the power.

use crate::{locked, stop};
use anyhow::Result;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A write, a trim or a write of zeros.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub at: u64,
    pub length: u64,
    /// `None`: the range becomes zeros.
    pub data: Option<&'a [u8]>,
}

impl Change<'_> {
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.length)
    }
}

/// Tells whether this is the change that was waited for; it may count.
pub type Trigger = Box<dyn FnMut(&Change<'_>) -> bool + Send>;

#[derive(Default)]
pub(crate) struct Trap {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Away,
    Set(Trigger),
    Sprung,
}

impl Trap {
    pub(crate) fn set(&self, trigger: Trigger) {
        *locked(&self.state) = State::Set(trigger);
    }

    /// The power was cut, or there is no disk any more: whoever is held may go.
    pub(crate) fn clear(&self) {
        *locked(&self.state) = State::Away;
        self.moved.notify_all();
    }

    /// True for the change that springs it, and for all that come later.
    pub(crate) fn springs(&self, change: &Change<'_>) -> bool {
        let mut state = locked(&self.state);
        match &mut *state {
            State::Away => false,
            State::Sprung => true,
            State::Set(trigger) => {
                let now = trigger(change);
                if now {
                    *state = State::Sprung;
                    self.moved.notify_all();
                }
                now
            }
        }
    }

    /// Returns when the power was cut.
    pub(crate) fn hold(&self) {
        let state = locked(&self.state);
        let held = self.moved.wait_while(state, |state| matches!(state, State::Sprung));
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }

    /// True once it has sprung, false when that took longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        let mut state = locked(&self.state);
        loop {
            if matches!(*state, State::Sprung) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            // slices, so that a stop is noticed
            (state, _) = self
                .moved
                .wait_timeout(state, Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner);
            stop::pause(Duration::ZERO)?;
        }
    }
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trap")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn change(at: u64) -> Change<'static> {
        Change { at, length: 512, data: None }
    }

    #[test]
    fn it_springs_once_and_holds_whatever_comes_later_until_the_power_is_cut() {
        let trap = Arc::new(Trap::default());
        assert!(!trap.springs(&change(4096)));
        trap.set(Box::new(|change| change.at == 4096));
        assert!(!trap.springs(&change(0)));
        assert!(!trap.wait(Duration::ZERO).unwrap());
        assert!(trap.springs(&change(4096)) && trap.springs(&change(0)));
        assert!(trap.wait(Duration::ZERO).unwrap());
        let held = std::thread::spawn({
            let trap = trap.clone();
            move || trap.hold()
        });
        trap.clear();
        held.join().unwrap();
        assert!(!trap.springs(&change(4096)));
    }
}
