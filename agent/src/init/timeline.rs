//! When what happened, in milliseconds since the kernel started: stages for the report, a console line for each step.

use muster_protocol::status::Stage;
use nix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel started, sleep included.
pub fn uptime_ms() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

#[derive(Debug, Default)]
pub(super) struct Timeline {
    stages: Vec<Stage>,
}

impl Timeline {
    /// The kernel's own time ends where PID 1 begins.
    pub(super) fn begin(now_ms: u64) -> Self {
        let mut timeline = Self::default();
        timeline.record("kernel", 0, now_ms);
        timeline
    }

    /// A finished stage; each name once, because a stage that is asked about again has not happened again.
    pub(super) fn record(&mut self, name: &str, started_ms: u64, now_ms: u64) {
        if self.stages.iter().all(|stage| stage.step != name) {
            let ms = now_ms.saturating_sub(started_ms);
            self.stages.push(Stage { step: name.into(), started_ms, ms, bytes: None });
        }
    }

    /// Follows on the last recorded stage. Tells whether it is new.
    pub(super) fn follow(&mut self, name: &str, now_ms: u64) -> bool {
        let started = self.stages.last().map_or(0, |last| last.started_ms + last.ms);
        let known = self.stages.len();
        self.record(name, started, now_ms);
        self.stages.len() > known
    }

    /// A stage that somebody else has timed. One of the same name is replaced: an install may be run again.
    pub(super) fn push(&mut self, stage: Stage) {
        self.stages.retain(|known| known.step != stage.step);
        self.stages.push(stage);
    }

    pub(super) fn stages(&self) -> &[Stage] {
        &self.stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_without_gaps_and_once() {
        let mut timeline = Timeline::begin(2000);
        timeline.follow("agent", 2600);
        timeline.follow("admitted", 9000);
        timeline.follow("admitted", 12_000);
        let seen: Vec<_> = timeline.stages().iter().map(|s| (s.step.as_str(), s.started_ms, s.ms)).collect();
        assert_eq!(seen, [("kernel", 0, 2000), ("agent", 2000, 600), ("admitted", 2600, 6400)]);
    }
}
