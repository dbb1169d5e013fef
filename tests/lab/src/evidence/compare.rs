//! The stages as reported beside the same stages by capture and consoles: which are confirmed, by how much they differ.

use super::stages::{Began, Source};

/// How far a reported stage may be from what was seen outside, by the host's clock.
pub(crate) const TOLERANCE_MS: u64 = 500;
/// Evidence that is farther away belongs to another boot.
const SAME_BOOT_MS: u64 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) step: String,
    pub(crate) at_ms: u64,
    /// What it was compared with, and the reported time less that one's.
    pub(crate) outside: Option<(Source, i64)>,
}

impl Compared {
    pub(crate) fn is_confirmed(&self) -> bool {
        self.outside.is_some_and(|(_, off)| off.unsigned_abs() <= TOLERANCE_MS)
    }

    /// What is wrong with it, as a sentence.
    pub(crate) fn complaint(&self) -> Option<String> {
        match self.outside {
            _ if self.is_confirmed() => None,
            Some((by, off)) => {
                let by = match by {
                    Source::Packet => "capture",
                    Source::Console => "console",
                };
                Some(format!("stage `{}` is {off:+} ms from what its {by} says", self.step))
            }
            None => Some(format!("stage `{}` has nothing in capture or console to confirm it", self.step)),
        }
    }
}

/// Each reported stage with the nearest evidence of its name; one piece of evidence confirms one stage.
pub(crate) fn compare(reported: &[(String, u64)], seen: &[Began]) -> Vec<Compared> {
    let mut used = vec![false; seen.len()];
    let mut one = |(step, at_ms): &(String, u64)| {
        let fits = |(n, began): &(usize, &Began)| !used[*n] && began.step == *step;
        let nearest = seen
            .iter()
            .enumerate()
            .filter(fits)
            .min_by_key(|(_, began)| began.at_ms.abs_diff(*at_ms))
            .filter(|(_, began)| began.at_ms.abs_diff(*at_ms) <= SAME_BOOT_MS);
        let outside = nearest
            .map(|(n, began)| (n, began.by, (*at_ms).cast_signed().wrapping_sub(began.at_ms.cast_signed())));
        if let Some((n, ..)) = outside {
            used[n] = true;
        }
        Compared { step: step.clone(), at_ms: *at_ms, outside: outside.map(|(_, by, off)| (by, off)) }
    };
    reported.iter().map(&mut one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(step: &str, at_ms: u64) -> Began {
        Began { step: step.into(), at_ms, by: Source::Console }
    }

    #[test]
    fn half_a_second_is_near_enough_and_more_is_a_complaint() {
        let seen = [began("claim", 1000), began("wipe", 2000)];
        let stages = [("claim".into(), 1500), ("wipe".into(), 1499)];
        let compared = compare(&stages, &seen);
        assert!(compared[0].is_confirmed() && !compared[1].is_confirmed());
        assert_eq!(compared[1].complaint().unwrap(), "stage `wipe` is -501 ms from what its console says");
    }

    #[test]
    fn one_line_confirms_one_stage_only() {
        let stages = [("node".into(), 1000), ("node".into(), 1100)];
        let compared = compare(&stages, &[began("node", 1000)]);
        assert!(compared[0].is_confirmed());
        assert_eq!(compared[1].outside, None);
        assert!(compared[1].complaint().is_some());
    }

    #[test]
    fn evidence_of_another_boot_is_none() {
        let compared = compare(&[("node".into(), 200_000)], &[began("node", 1000)]);
        assert_eq!(compared[0].outside, None);
    }
}
