//! `target/demo/report.json`: what was seen, and the digests of what it was seen in.

use super::canary::Canary;
use super::confirm::Confirmed;
use super::status::{Answer, Machine};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    machines: Vec<Entry>,
    etcd: Etcd,
    stand_ins: Vec<String>,
    #[serde(flatten)]
    outside: &'a Outside,
}

/// What was seen without asking Muster.
#[derive(Debug, Serialize)]
pub(crate) struct Outside {
    pub(crate) digests: Digests,
    pub(crate) confirmed: Confirmed,
    pub(crate) canary: Canary,
    /// How long each `muster status --lan` took with the provisioner stopped.
    pub(crate) lan_status_ms: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    class: Class,
    architecture: String,
    address: Option<String>,
    state: String,
    evidence: Value,
    taints: Vec<String>,
    stages: Vec<Stage>,
}

#[derive(Debug, Serialize)]
struct Class {
    declared: String,
    detected: Option<String>,
}

#[derive(Debug, Serialize)]
struct Stage {
    step: String,
    /// When it began, by the provisioner's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_unix_ms: Option<u64>,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct Etcd {
    members: Vec<Member>,
    leader: Option<String>,
    /// A decimal string: it is larger than a JSON number can be trusted with.
    cluster_id: Option<String>,
}

#[derive(Debug, Serialize)]
struct Member {
    name: Option<String>,
    learner: bool,
}

/// SHA-256 in hex.
#[derive(Debug, Serialize)]
pub(crate) struct Digests {
    pub(crate) capture: Option<String>,
    pub(crate) consoles: BTreeMap<String, String>,
}

/// What the lab itself knows of a machine, for when Muster knows nothing.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) class: String,
    pub(crate) architecture: &'static str,
    pub(crate) stand_in: Option<&'static str>,
}

pub(crate) fn report<'a>(
    known: &[Known],
    answer: &Answer,
    lab_stand_ins: &[&str],
    outside: &'a Outside,
) -> Report<'a> {
    let mut stand_ins: BTreeSet<String> = answer.stand_ins.iter().cloned().collect();
    stand_ins.extend(lab_stand_ins.iter().map(|&text| text.to_owned()));
    for machine in &answer.machines {
        stand_ins.extend(machine.stand_ins.iter().cloned());
    }
    stand_ins.extend(known.iter().filter_map(|known| Some(format!("{}: {}", known.name, known.stand_in?))));
    let etcd = answer.etcd.as_ref().map(|etcd| Etcd {
        members: etcd.members.iter().map(|m| Member { name: m.name.clone(), learner: m.learner }).collect(),
        leader: etcd.leader.clone(),
        cluster_id: etcd.cluster_id.clone(),
    });
    Report {
        machines: known.iter().map(|known| entry(known, answer.machine(&known.name))).collect(),
        etcd: etcd.unwrap_or_default(),
        stand_ins: stand_ins.into_iter().collect(),
        outside,
    }
}

fn entry(known: &Known, machine: Option<&Machine>) -> Entry {
    let unheard = Machine::default();
    let machine = machine.unwrap_or(&unheard);
    let stage = |stage: &super::status::Stage| Stage {
        step: stage.step.clone(),
        at_unix_ms: stage.at_unix_ms,
        ms: stage.ms,
        bytes: stage.bytes,
    };
    Entry {
        name: known.name.clone(),
        class: Class {
            declared: machine.class.declared.clone().unwrap_or_else(|| known.class.clone()),
            detected: machine.class.detected.clone(),
        },
        architecture: machine.architecture.clone().unwrap_or_else(|| known.architecture.into()),
        address: machine.address.clone(),
        state: machine.state.clone().unwrap_or_else(|| "not heard of".into()),
        evidence: machine.evidence.clone(),
        taints: machine.taints.clone(),
        stages: machine.stages.iter().map(stage).collect(),
    }
}

pub(crate) fn write(report: &Report<'_>, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

pub(crate) fn sha256(file: &Path) -> Result<String> {
    let mut open = std::fs::File::open(file).with_context(|| format!("reading {}", file.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match open.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_report_has_exactly_the_fields_that_were_promised() {
        let answer: Answer = serde_json::from_value(json!({
            "machines": [{"name": "a", "state": "ready", "address": "10.77.0.11", "architecture": "x86_64",
                "class": {"declared": "mini-pc", "detected": "mini-pc", "fit": "detected"}, "evidence": {"k3s": null},
                "taints": [], "stages": [{"step": "write", "at_unix_ms": 5, "ms": 9, "bytes": 100}, {"step": "mark", "ms": 1}]}],
            "etcd": {"members": [{"name": "a-00000000", "id": "1", "learner": false}], "leader": "a-00000000", "cluster_id": "5"},
            "stand_ins": ["k3s: a stand-in"],
        }))
        .unwrap();
        let known =
            Known { name: "a".into(), class: "mini-pc".into(), architecture: "x86_64", stand_in: None };
        let digests = Digests { capture: Some("00".into()), consoles: [("a".into(), "11".into())].into() };
        let outside = Outside {
            digests,
            confirmed: Confirmed::default(),
            canary: Canary::default(),
            lan_status_ms: vec![1.5],
        };
        let written = serde_json::to_value(report(&[known], &answer, &[], &outside)).unwrap();
        assert_eq!(
            written,
            json!({
                "machines": [{"name": "a", "class": {"declared": "mini-pc", "detected": "mini-pc"}, "architecture": "x86_64",
                    "address": "10.77.0.11", "state": "ready", "evidence": {"k3s": null}, "taints": [],
                    "stages": [{"step": "write", "at_unix_ms": 5, "ms": 9, "bytes": 100}, {"step": "mark", "ms": 1}]}],
                "etcd": {"members": [{"name": "a-00000000", "learner": false}], "leader": "a-00000000", "cluster_id": "5"},
                "stand_ins": ["k3s: a stand-in"],
                "digests": {"capture": "00", "consoles": {"a": "11"}},
                "confirmed": {"stages": 0, "confirmed": 0, "largest_ms": null, "machines": {}},
                "canary": {"secrets": 0, "places": 0, "bytes": 0, "allowed": 0, "found": []},
                "lan_status_ms": [1.5],
            })
        );
    }

    #[test]
    fn a_machine_that_was_never_heard_of_is_in_the_report_all_the_same() {
        let known = Known {
            name: "b".into(),
            class: "rtx-host".into(),
            architecture: "x86_64",
            stand_in: Some("no GPU"),
        };
        let digests = Digests { capture: None, consoles: BTreeMap::new() };
        let outside = Outside {
            digests,
            confirmed: Confirmed::default(),
            canary: Canary::default(),
            lan_status_ms: vec![1.5],
        };
        let written = serde_json::to_value(report(&[known], &Answer::default(), &[], &outside)).unwrap();
        assert_eq!(written["machines"][0]["state"], "not heard of");
        assert_eq!(written["stand_ins"], json!(["b: no GPU"]));
    }
}
