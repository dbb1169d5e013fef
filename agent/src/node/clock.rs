//! The node's clock beside the provisioner's signed time: always measured, and set while no NTP source keeps it.
//!
//! A real-time clock is read in whole seconds, and one that nobody keeps drifts; etcd's members may differ by a second.

use crate::node::service::Service;
use crate::node::unix_ms;
use muster_identity::clock::is_synchronised;
use std::collections::VecDeque;

/// A crowded machine answers late now and then; of so many exchanges the quickest tells most.
const SAMPLES: usize = 8;
const FRESH_MS: u64 = 120_000;
/// Below this a step is not worth its jump.
const WORTH_MS: i64 = 250;
/// How far k3s, once it runs, is taken back in time: its certificates and leases have no say in so little.
const BACK_MS: i64 = 5000;

/// k3s is first started without a clock that anybody vouches for after this.
const WAIT_MS: u64 = 15_000;

/// One exchange. The true offset lies within half the round trip of the one measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// In our uptime.
    pub at_ms: u64,
    /// Ours is behind (+) or ahead (−) of the provisioner's.
    pub offset_ms: i64,
    pub round_trip_ms: u64,
}

impl Sample {
    /// Clock `said` by the provisioner, half the way back, and our own when the answer came.
    pub fn new(said_ms: u64, round_trip_ms: u64, received_ms: u64, at_ms: u64) -> Option<Self> {
        let there = i64::try_from(said_ms.checked_add(round_trip_ms / 2)?).ok()?;
        let offset_ms = there.checked_sub(i64::try_from(received_ms).ok()?)?;
        Some(Self { at_ms, offset_ms, round_trip_ms })
    }
}

/// The newest exchanges.
#[derive(Debug, Default)]
pub struct Samples(VecDeque<Sample>);

impl Samples {
    pub fn note(&mut self, sample: Sample) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The quickest of those that are not old.
    pub fn best(&self, now_ms: u64) -> Option<Sample> {
        let fresh = |sample: &&Sample| now_ms.saturating_sub(sample.at_ms) <= FRESH_MS;
        self.0.iter().filter(fresh).min_by_key(|sample| sample.round_trip_ms).copied()
    }

    /// They spoke of a clock that was set since.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

/// What is to be done about the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is good, or somebody else keeps it.
    Leave,
    /// By so many milliseconds.
    By(i64),
    /// k3s runs and would be taken back too far.
    TooFarAhead(i64),
}

pub fn step(best: Sample, synchronised: bool, k3s_runs: bool) -> Step {
    let Sample { offset_ms, round_trip_ms, .. } = best;
    // Within half the round trip the clock may as well be right already.
    let doubt = i64::try_from(round_trip_ms / 2).unwrap_or(i64::MAX);
    if synchronised || offset_ms.saturating_abs() < WORTH_MS || offset_ms.saturating_abs() <= doubt {
        return Step::Leave;
    }
    if k3s_runs && offset_ms < -BACK_MS {
        return Step::TooFarAhead(offset_ms.saturating_abs());
    }
    Step::By(offset_ms)
}

impl Service {
    /// Whether k3s may start by this clock: what it signs while the clock is wrong stays wrong; yet an outage of all time
    /// sources must not become ours.
    pub(super) fn clock_will_do(&self, now_ms: u64) -> bool {
        self.clock_agrees || is_synchronised() || now_ms.saturating_sub(self.started_ms) >= WAIT_MS
    }

    /// Takes one exchange into account, and sets the clock where that is due.
    pub(super) fn compare_clocks(&mut self, sample: Option<Sample>) {
        let Some(sample) = sample else { return };
        self.clocks.note(sample);
        let Some(best) = self.clocks.best(sample.at_ms) else { return };
        self.last.clock_offset_ms = Some(best.offset_ms);
        match step(best, is_synchronised(), !self.last.unit.is_down()) {
            Step::Leave => {
                self.clock_agrees = true;
                self.troubles.remove("clock");
            }
            Step::TooFarAhead(ms) => self.trouble_text(
                "clock",
                format!("the clock is ahead by {ms} ms, and k3s runs (hint: give this node an NTP server that answers, or reboot it)"),
            ),
            Step::By(ms) => match crate::clock::set(unix_ms().saturating_add_signed(ms)) {
                Ok(()) => {
                    tracing::info!(ms, "no NTP server keeps the clock: set by the provisioner's");
                    self.clocks.forget();
                    // Told again when it was measured again.
                    self.last.clock_offset_ms = None;
                    self.troubles.remove("clock");
                }
                Err(error) => self.trouble_text("clock", format!("the clock cannot be set: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset_ms: i64, round_trip_ms: u64) -> Sample {
        Sample { at_ms: 1000, offset_ms, round_trip_ms }
    }

    #[test]
    fn the_offset_takes_half_the_way_into_account() {
        let sample = Sample::new(10_000, 100, 10_000, 0).unwrap();
        assert_eq!(sample.offset_ms, 50);
        assert_eq!(Sample::new(10_000, 0, 12_000, 0).unwrap().offset_ms, -2000);
        assert_eq!(Sample::new(u64::MAX, 9, 0, 0), None);
        assert_eq!(Sample::new(0, 0, u64::MAX, 0), None);
    }

    #[test]
    fn the_quickest_fresh_exchange_counts() {
        let mut samples = Samples::default();
        for (at_ms, round_trip_ms) in [(0, 1), (200_000, 900), (210_000, 40), (220_000, 500)] {
            samples.note(Sample { at_ms, offset_ms: 0, round_trip_ms });
        }
        assert_eq!(samples.best(221_000).unwrap().round_trip_ms, 40);
        samples.forget();
        assert_eq!(samples.best(221_000), None);
        (0..20).for_each(|n| samples.note(Sample { at_ms: n, offset_ms: 0, round_trip_ms: n }));
        assert_eq!(samples.best(20).unwrap().round_trip_ms, 12, "only the newest are kept");
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_set_when_it_is_surely_wrong() {
        assert_eq!(step(sample(1344, 20), false, true), Step::By(1344));
        assert_eq!(step(sample(-1344, 20), false, true), Step::By(-1344));
        assert_eq!(step(sample(1344, 20), true, false), Step::Leave, "an NTP source keeps it");
        assert_eq!(step(sample(200, 20), false, false), Step::Leave, "too little");
        assert_eq!(step(sample(1344, 2688), false, false), Step::Leave, "it may as well be right");
    }

    #[test]
    fn k3s_is_not_taken_far_back_in_time() {
        assert_eq!(step(sample(-60_000, 20), false, true), Step::TooFarAhead(60_000));
        assert_eq!(step(sample(-60_000, 20), false, false), Step::By(-60_000));
        assert_eq!(step(sample(60_000, 20), false, true), Step::By(60_000));
        assert_eq!(step(sample(i64::MIN, 20), false, true), Step::TooFarAhead(i64::MAX));
    }
}
