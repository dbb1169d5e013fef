//! The status as Prometheus text (exposition format 0.0.4). No secret is in a status, so none is here.

use muster_protocol::status::{State, Status};
use std::fmt::Write;

pub fn text(status: &Status) -> String {
    let mut text = Text::default();
    text.kind("muster_node_info", "What this node is.");
    let word = |word: Option<String>| word.unwrap_or_default();
    text.value(
        "muster_node_info",
        &[
            ("node", &word(status.node.as_ref().map(ToString::to_string))),
            ("role", &word(status.role.map(|role| role.to_string()))),
            ("arch", &status.arch.to_string()),
            ("agent", &status.agent_version),
            ("kernel", &status.kernel),
            ("stand_in", if status.stand_ins.is_empty() { "false" } else { "true" }),
        ],
        1,
    );
    text.kind("muster_node_state", "1 for the state that the node is in.");
    for state in State::ALL {
        text.value("muster_node_state", &[("state", state.word())], u64::from(*state == status.state));
    }
    text.one("muster_node_uptime_milliseconds", "Since kernel start.", status.uptime_ms);
    text.one(
        "muster_node_reasons",
        "How many reasons there are why it is not ready.",
        status.reasons.len() as u64,
    );
    text.one("muster_node_memory_total_bytes", "Memory of the machine.", status.memory_total);
    text.one("muster_node_memory_available_bytes", "Memory that can be had.", status.memory_available);
    if let Some(free) = status.data_free {
        text.one("muster_node_data_free_bytes", "Free on the data partition.", free);
    }
    if let Some(k3s) = &status.evidence.k3s {
        text.one("muster_k3s_active", "k3s's unit is active.", u64::from(k3s.unit == "active"));
        text.one("muster_k3s_restarts", "Restarts of k3s's unit since boot.", u64::from(k3s.restarts));
    }
    if let Some(etcd) = &status.evidence.etcd {
        text.one("muster_etcd_voter", "The member votes.", u64::from(etcd.voter));
        text.one("muster_etcd_has_leader", "The member knows a leader.", u64::from(etcd.leader.is_some()));
        text.one("muster_etcd_members", "Listed members.", etcd.members.len() as u64);
        text.one("muster_etcd_ready", "The API server's /readyz says ok.", u64::from(etcd.ready));
    }
    if let Some(kata) = &status.evidence.kata {
        text.one("muster_kata_files", "Every file of Kata is as it was put in place.", u64::from(kata.files));
        text.one("muster_kata_kvm", "/dev/kvm can be opened.", u64::from(kata.kvm));
    }
    text.kind("muster_stage_milliseconds", "How long each stage of this boot took.");
    for stage in &status.stages {
        text.value("muster_stage_milliseconds", &[("step", &stage.step)], stage.ms);
    }
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn kind(&mut self, name: &str, help: &str) {
        // Writing to a String has no error path.
        let _ok = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    }

    fn one(&mut self, name: &str, help: &str, value: u64) {
        self.kind(name, help);
        self.value(name, &[], value);
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut list = String::new();
        for (key, text) in labels {
            let comma = if list.is_empty() { "" } else { "," };
            let _ok = write!(list, "{comma}{key}=\"{}\"", escaped(text));
        }
        let list = if list.is_empty() { list } else { format!("{{{list}}}") };
        let _ok = writeln!(self.0, "{name}{list} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::a_status;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let mut status = a_status(1);
        status.kernel = "6.12 \"x\\\n# HELP".into();
        let text = text(&status);
        for line in text.lines() {
            assert!(
                line.starts_with("# HELP muster_")
                    || line.starts_with("# TYPE muster_")
                    || line.starts_with("muster_"),
                "{line}"
            );
            if line.starts_with("muster_") {
                assert!(line.rsplit_once(' ').unwrap().1.parse::<u64>().is_ok(), "{line}");
            }
        }
        let of_state: u64 = text
            .lines()
            .filter(|line| line.starts_with("muster_node_state{"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum();
        assert_eq!(of_state, 1);
    }
}
