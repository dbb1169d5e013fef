//! Which transfer's timer runs out next.
//!
//! A busy transfer moves its deadline forward with each packet. So an entry is only a promise to look: whoever looks
//! and finds the deadline moved puts a new one in. That costs one entry per timer, not one per packet. The same holds for the
//! kernel's timer below: it is set once for each promise. A time-out of each wait instead is set and taken back with each
//! packet, which in lockstep is a fifth of all processor time.

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// The kernel's timer; its descriptor is readable from the time on that it was set to.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?, at: None })
    }

    /// Rings at `at`; nothing is done where it would anyway.
    pub(super) fn set(&mut self, at: Instant, now: Instant) -> nix::Result<()> {
        if self.at == Some(at) {
            return Ok(());
        }
        // A time of zero would be no alarm at all.
        let pause = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        self.timer.set(Expiration::OneShot(TimeSpec::from(pause)), TimerSetTimeFlags::empty())?;
        self.at = Some(at);
        Ok(())
    }

    /// It rang: it is silent until it is set again. Left ringing, a thread with nothing to wait for would turn for ever.
    pub(super) fn rang(&mut self) -> nix::Result<()> {
        self.at = None;
        self.timer.unset()
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Entries by time.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(Instant, u64)>>);

impl Deadlines {
    /// Promises to look at `key` at `at`.
    pub(super) fn promise(&mut self, at: Instant, key: u64) {
        self.0.push(Reverse((at, key)));
    }

    /// Takes the next entry that is due, with the time it was promised for.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let Reverse(first) = *self.0.peek()?;
        (first.0 <= now).then(|| self.0.pop()).flatten().map(|Reverse(first)| first)
    }

    /// When something is due next; `None` when there is nothing at all.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn what_is_due_comes_in_order_of_time() {
        let now = Instant::now();
        let ms = Duration::from_millis(1);
        let mut deadlines = Deadlines::default();
        deadlines.promise(now + ms * 5, 5);
        deadlines.promise(now + ms, 1);
        assert_eq!(deadlines.next(), Some(now + ms));
        assert_eq!(deadlines.take_due(now), None);
        assert_eq!(deadlines.take_due(now + ms * 9), Some((now + ms, 1)));
        assert_eq!(deadlines.take_due(now + ms * 9), Some((now + ms * 5, 5)));
        assert_eq!((deadlines.take_due(now + ms * 9), deadlines.next()), (None, None));
    }

    #[test]
    fn an_alarm_rings_once_at_its_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        let rings = |alarm: &Alarm, within: u16| {
            let mut fds = [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(within)).unwrap() == 1
        };
        let now = Instant::now();
        alarm.set(now + Duration::from_secs(60), now).unwrap();
        assert!(!rings(&alarm, 0));
        alarm.set(now + Duration::from_millis(20), now).unwrap();
        assert!(rings(&alarm, 5000) && now.elapsed() >= Duration::from_millis(20));
        alarm.rang().unwrap();
        assert!(!rings(&alarm, 0), "it was heard");
        // Set to a time that is over it rings at once; set to a later one it is quiet again.
        alarm.set(now, Instant::now()).unwrap();
        assert!(rings(&alarm, 5000));
        alarm.rang().unwrap();
        let now = Instant::now();
        alarm.set(now + Duration::from_secs(60), now).unwrap();
        assert!(!rings(&alarm, 0));
    }
}
