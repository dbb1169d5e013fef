//! `muster status -o json`, as far as the demo looks at it. Everything may be missing: judging that is not parsing's job.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    /// `provisioner`, or `lan` when the agents answered themselves.
    pub(crate) source: String,
    pub(crate) machines: Vec<Machine>,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) stand_ins: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) role: Option<String>,
    pub(crate) class: Class,
    pub(crate) architecture: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) step: Option<Step>,
    pub(crate) reasons: Vec<String>,
    /// Passed on to the report as it is.
    pub(crate) evidence: Value,
    pub(crate) taints: Vec<String>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) stand_ins: Vec<String>,
    pub(crate) last_seen_unix_ms: Option<u64>,
    pub(crate) order: Option<Order>,
}

/// The newest order to install it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    pub(crate) number: String,
    pub(crate) state: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Class {
    pub(crate) declared: Option<String>,
    pub(crate) detected: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stage {
    pub(crate) step: String,
    pub(crate) at_unix_ms: Option<u64>,
    pub(crate) ms: u64,
    pub(crate) bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    pub(crate) leader: Option<String>,
    pub(crate) cluster_id: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Member {
    pub(crate) name: Option<String>,
    pub(crate) learner: bool,
}

/// The parts of a machine's evidence that the demo judges.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Evidence {
    pub(crate) k3s: Option<K3s>,
    pub(crate) etcd: Option<EtcdSeen>,
    pub(crate) kata: Option<Kata>,
    pub(crate) node: Option<Node>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct K3s {
    pub(crate) unit: String,
    pub(crate) started_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EtcdSeen {
    pub(crate) voter: bool,
    pub(crate) leader: Option<u64>,
    pub(crate) cluster_id: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Kata {
    pub(crate) files: bool,
    pub(crate) handler: bool,
    pub(crate) in_place_ms: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) ready: bool,
    pub(crate) taints: Vec<String>,
}

impl Answer {
    pub(crate) fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }
}

impl Machine {
    pub(crate) fn is_ready(&self) -> bool {
        self.state.as_deref() == Some("ready")
    }

    /// `None`: the evidence has another shape than we know, which the checks report.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        if self.evidence.is_null() {
            Some(Evidence::default())
        } else {
            serde_json::from_value(self.evidence.clone()).ok()
        }
    }

    /// State, step and progress in a few words.
    pub(crate) fn doing(&self) -> String {
        let state = self.state.as_deref().unwrap_or("-");
        match &self.step {
            Some(step) if step.total > 0 => {
                format!("{state} {} {} %", step.step, step.done.saturating_mul(100) / step.total)
            }
            Some(step) => format!("{state} {}", step.step),
            None => state.into(),
        }
    }
}
