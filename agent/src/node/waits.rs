//! A step that waits for its provisioner: when it is tried again, and what a person at the console is told meanwhile.
//!
//! Pure. Each cause is told once, not each try; the tries get rarer until the provisioner is heard again.

use std::time::Duration;

/// Before the second try.
const FIRST: Duration = Duration::from_secs(5);
/// However often it failed.
const LONGEST: Duration = Duration::from_secs(60);

/// How often the present steps failed in a row, and what was told of it last.
#[derive(Debug, Default)]
pub(super) struct Waits {
    failures: u32,
    told: Option<(&'static str, String)>,
}

/// What follows from a try that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) pause: Duration,
    /// A line for the console, where it would tell anything new.
    pub(super) line: Option<String>,
}

impl Waits {
    /// `chain` has the error and its causes in words. The last of them decides whether this is the same as before: those
    /// above it count bytes.
    pub(super) fn failed(&mut self, step: &'static str, chain: &[String]) -> Wait {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let cause = (step, chain.last().cloned().unwrap_or_default());
        if self.told.as_ref() == Some(&cause) {
            return Wait { pause, line: None };
        }
        self.told = Some(cause);
        // Hints are for the log.
        let parts: Vec<&str> = chain.iter().filter_map(|part| part.lines().next()).collect();
        let line = format!(
            "{step} waits: {}; tries again in {} s, then ever more rarely, every {} s at least",
            parts.join(": "),
            pause.as_secs(),
            LONGEST.as_secs()
        );
        Wait { pause, line: Some(line) }
    }

    /// The provisioner was heard again: whether a try is worth it at once. Its first failures are quick ones again.
    pub(super) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn the_tries_get_rarer_until_the_provisioner_is_heard() {
        let mut waits = Waits::default();
        assert!(!waits.heard(), "nothing waits for it");
        let mut pauses = |count: usize| -> Vec<u64> {
            let mut pause = || waits.failed("k3s", &chain(&["refused"])).pause.as_secs();
            let pauses = (0..count).map(|_| pause()).collect();
            assert!(waits.heard() && !waits.heard());
            pauses
        };
        assert_eq!(pauses(6), [5, 10, 20, 40, 60, 60]);
        assert_eq!(pauses(100).last(), Some(&60));
        assert_eq!(pauses(2), [5, 10]);
    }

    #[test]
    fn each_cause_is_told_once() {
        let mut waits = Waits::default();
        let broke = |bytes: u32| chain(&["cannot fetch k3s", &format!("broke after {bytes} bytes"), "reset"]);
        let first = waits.failed("k3s", &broke(1)).line.unwrap();
        assert!(
            first.starts_with("k3s waits: cannot fetch k3s: broke after 1 bytes: reset; tries again in 5 s")
        );
        assert_eq!(waits.failed("k3s", &broke(2)).line, None, "the same cause, further on");
        waits.heard();
        assert_eq!(waits.failed("k3s", &broke(2)).line, None);
        assert!(waits.failed("k3s", &chain(&["cannot fetch k3s", "refused"])).line.is_some());
        assert!(
            waits.failed("kata", &chain(&["cannot fetch k3s", "refused"])).line.is_some(),
            "another step"
        );
        let hinted = waits.failed("kata", &chain(&["a foreign template\nhint: remove it"])).line.unwrap();
        assert!(hinted.starts_with("kata waits: a foreign template; tries"), "{hinted}");
    }
}
