//! The reported stages beside those that capture and consoles show by themselves; see `evidence::stages` for which is which.

use super::status::{Answer, Machine};
use crate::evidence::compare::{Compared, TOLERANCE_MS, compare};
use crate::evidence::spoken::boots;
use crate::evidence::stages::{Source, Wire, mac, stages, wire};
use crate::fleet::Declared;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// On a busy host a guest may say late what it began (seen: four of 187, by up to 0.8 s). That is shown as missed, and no
/// failure of the run while it is at most one stage in so many, by no more than this.
const FEW: usize = 20;
const FAR_MS: u64 = 2000;

/// What goes into the report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Confirmed {
    stages: usize,
    confirmed: usize,
    /// Of those that have evidence at all.
    largest_ms: Option<u64>,
    /// In the order in which the machine's stages are reported.
    machines: BTreeMap<String, Vec<Stage>>,
}

#[derive(Debug, Serialize)]
struct Stage {
    step: String,
    /// `capture`, `console`, or null when there is none.
    by: Option<&'static str>,
    /// Reported less seen.
    off_ms: Option<i64>,
    #[serde(skip)]
    complaint: Option<String>,
}

impl Confirmed {
    /// What makes the run a failure: a stage without evidence or far from it, or too many that miss the tolerance.
    pub(super) fn complaints(&self) -> Vec<String> {
        let missed = self.stages - self.confirmed;
        let few = missed * FEW <= self.stages;
        let far = |stage: &Stage| stage.off_ms.is_none_or(|off| off.unsigned_abs() > FAR_MS);
        self.missed(|stage| !few || far(stage))
    }

    /// Every stage that misses the tolerance, also those that a busy host excuses.
    pub(super) fn all_missed(&self) -> Vec<String> {
        self.missed(|_| true)
    }

    fn missed(&self, which: impl Fn(&Stage) -> bool) -> Vec<String> {
        let all =
            self.machines.iter().flat_map(|(name, stages)| stages.iter().map(move |stage| (name, stage)));
        all.filter(|(_, stage)| which(stage))
            .filter_map(|(name, stage)| Some(format!("{name}: {}", stage.complaint.as_ref()?)))
            .collect()
    }

    pub(super) fn line(&self) -> String {
        let Self { stages, confirmed, largest_ms, .. } = self;
        let largest = largest_ms.map_or("none compared".into(), |ms| format!("{ms} ms"));
        format!(
            "{confirmed} stages of {stages} confirmed by capture and consoles (± {TOLERANCE_MS} ms), largest difference {largest}"
        )
    }

    fn add(&mut self, name: &str, compared: &[Compared]) {
        self.stages += compared.len();
        self.confirmed += compared.iter().filter(|one| one.is_confirmed()).count();
        let off = compared.iter().filter_map(|one| Some(one.outside?.1.unsigned_abs()));
        self.largest_ms = self.largest_ms.into_iter().chain(off).max();
        self.machines.insert(name.to_owned(), compared.iter().map(stage).collect());
    }
}

fn stage(compared: &Compared) -> Stage {
    let by = compared.outside.map(|(by, _)| match by {
        Source::Packet => "capture",
        Source::Console => "console",
    });
    Stage {
        step: compared.step.clone(),
        by,
        off_ms: compared.outside.map(|(_, off)| off),
        complaint: compared.complaint(),
    }
}

pub(super) fn confirm(machines: &[Declared], answer: &Answer, folder: &Path) -> Result<Confirmed> {
    let capture = folder.join("lan.pcap");
    let bytes = std::fs::read(&capture).with_context(|| capture.display().to_string())?;
    let mut confirmed = Confirmed::default();
    for machine in machines {
        let macs: Vec<_> = machine.mac.iter().filter_map(|text| mac(text)).collect();
        let wire = wire(&bytes, &macs).with_context(|| format!("{} is no capture", capture.display()))?;
        let console = folder.join(format!("{}.console", machine.name));
        let said = std::fs::read(&console).with_context(|| console.display().to_string())?;
        if let Some(reported) = answer.machine(&machine.name) {
            confirmed.add(&machine.name, &one(reported, &wire, &String::from_utf8_lossy(&said)));
        }
    }
    Ok(confirmed)
}

fn one(machine: &Machine, wire: &Wire, console: &str) -> Vec<Compared> {
    let dated = machine.stages.iter().filter_map(|stage| Some((stage.step.clone(), stage.at_unix_ms?)));
    compare(&dated.collect::<Vec<_>>(), &stages(wire, &boots(console)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One machine of a run: netboot, install, netboot again, ready, a pulled plug, netboot, ready.
    const CAPTURE: &[u8] = include_bytes!("../../tests/recorded/mini-pc-4.pcap");
    const CONSOLE: &str = include_str!("../../tests/recorded/mini-pc-4.console");
    const REPORTED: &str = include_str!("../../tests/recorded/mini-pc-4.json");

    fn recorded() -> (Machine, Wire) {
        let machine: Machine = serde_json::from_str(REPORTED).unwrap();
        (machine, wire(CAPTURE, &[mac("52:54:00:00:00:14").unwrap()]).unwrap())
    }

    #[test]
    fn every_stage_of_a_recorded_run_is_confirmed() {
        let (machine, wire) = recorded();
        let mut confirmed = Confirmed::default();
        confirmed.add("mini-pc-4", &one(&machine, &wire, CONSOLE));
        assert_eq!(confirmed.all_missed(), Vec::<String>::new());
        assert!(confirmed.stages >= 35 && confirmed.confirmed == confirmed.stages, "{}", confirmed.line());
    }

    #[test]
    fn a_report_that_is_a_second_late_is_found_for_every_stage() {
        let (mut machine, wire) = recorded();
        for stage in &mut machine.stages {
            stage.at_unix_ms = stage.at_unix_ms.map(|at| at + 1000);
        }
        assert!(one(&machine, &wire, CONSOLE).iter().all(|one| !one.is_confirmed()));
    }

    #[test]
    fn one_late_stage_is_shown_and_many_are_a_fault() {
        let (machine, wire) = recorded();
        let complain = |late: usize, by: u64| {
            let mut machine = machine.clone();
            let stages = machine.stages.iter_mut().filter(|stage| stage.step != "dhcp");
            for stage in stages.take(late) {
                stage.at_unix_ms = stage.at_unix_ms.map(|at| at + by);
            }
            let mut confirmed = Confirmed::default();
            confirmed.add("mini-pc-4", &one(&machine, &wire, CONSOLE));
            (confirmed.all_missed().len(), confirmed.complaints().len())
        };
        assert_eq!(complain(1, 1000), (1, 0));
        assert_eq!(complain(1, 3000), (1, 1));
        assert_eq!(complain(10, 1000), (10, 10));
    }

    #[test]
    fn a_console_that_says_nothing_confirms_nothing_but_the_wire_s_own() {
        let (machine, wire) = recorded();
        let by_wire: Vec<String> =
            one(&machine, &wire, "").into_iter().filter(Compared::is_confirmed).map(|one| one.step).collect();
        assert_eq!(by_wire, ["dhcp", "boot-file", "dhcp", "boot-file", "dhcp", "boot-file"]);
    }
}
