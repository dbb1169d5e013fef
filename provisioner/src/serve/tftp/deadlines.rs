//! Which transfer's timer runs out next.
//!
//! A busy transfer moves its deadline forward with each packet. So an entry is only a promise to look: whoever looks
//! and finds the deadline moved puts a new one in. That costs one entry per timer, not one per packet.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

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

    /// How long nothing is due; `None` when there is nothing at all.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_of_time() {
        let now = Instant::now();
        let ms = Duration::from_millis(1);
        let mut deadlines = Deadlines::default();
        deadlines.promise(now + ms * 5, 5);
        deadlines.promise(now + ms, 1);
        assert_eq!(deadlines.pause(now), Some(ms));
        assert_eq!(deadlines.take_due(now), None);
        assert_eq!(deadlines.take_due(now + ms * 9), Some((now + ms, 1)));
        assert_eq!(deadlines.take_due(now + ms * 9), Some((now + ms * 5, 5)));
        assert_eq!((deadlines.take_due(now + ms * 9), deadlines.pause(now)), (None, None));
    }
}
