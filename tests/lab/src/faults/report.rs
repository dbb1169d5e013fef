//! `target/faults/report.json`, and the lines on stdout.

use super::Told;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// What is not the real thing in every story.
const STAND_INS: &[&str] = &[
    "hardware: one QEMU machine (TCG) with the SMBIOS strings of a ThinkCentre M75q Gen 2, firmware OVMF",
    "network: one bridge in network namespaces, dnsmasq as the foreign DHCP server",
    "disks: an NBD server with a volatile cache; a power cut is QEMU killed and unflushed writes kept, torn or lost",
    "k3s is a stand-in over a real etcd, Kata a handful of files",
];

#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    pub(super) total_s: f64,
    stories: Vec<Entry>,
    stand_ins: &'static [&'static str],
}

#[derive(Debug, Serialize)]
pub(super) struct Entry {
    story: &'static str,
    well: bool,
    seconds: f64,
    line: String,
    figures: Value,
}

impl Entry {
    pub(super) fn new(story: &'static str, took: Duration, told: Result<Told>) -> Self {
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        match told {
            Ok(told) => Self { story, well: true, seconds, line: told.line, figures: told.figures },
            Err(error) => {
                Self { story, well: false, seconds, line: format!("{error:#}"), figures: Value::Null }
            }
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.well
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.well { "well" } else { "NOT WELL" };
        write!(f, "{:18} {word}, {:.0} s: {}", self.story, self.seconds, self.line)
    }
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, total_s: 0.0, stories: Vec::new(), stand_ins: STAND_INS }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.stories.push(entry);
    }

    pub(super) fn is_well(&self) -> bool {
        self.stories.iter().all(Entry::is_well)
    }

    pub(super) fn summary(&self) -> String {
        let bad: Vec<&str> =
            self.stories.iter().filter(|entry| !entry.well).map(|entry| entry.story).collect();
        let all = self.stories.len();
        let seconds = self.total_s;
        if bad.is_empty() {
            format!("all {all} stories ended well, {seconds:.0} s in all, seed {}", self.seed)
        } else {
            format!(
                "{} of {all} stories NOT WELL: {}; {seconds:.0} s in all, seed {}",
                bad.len(),
                bad.join(", "),
                self.seed
            )
        }
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_bad_story_makes_the_report_bad_and_is_named() {
        let mut report = Report::new(7);
        let told = Told { line: "7 of 7".into(), figures: json!({ "cycles": 7 }) };
        report.add(Entry::new("power-cycles", Duration::from_millis(1234), Ok(told)));
        assert!(report.is_well() && report.summary().contains("seed 7"));
        report.add(Entry::new("cable", Duration::ZERO, Err(anyhow::anyhow!("it sits in the shell"))));
        assert!(!report.is_well());
        assert!(report.summary().contains("cable"), "{}", report.summary());
        assert!(report.stories[1].to_string().contains("it sits in the shell"));
    }
}
