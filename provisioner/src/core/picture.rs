//! The whole picture: what `muster status` shows, from the provisioner or, by the same shape, from the LAN.

use super::live::Live;
use super::ordering::newest_order;
use super::{Core, CoreError, Now, machine_row};
use crate::cluster::record::Cluster;
use crate::config::meant::Machine;
use crate::store::Read;
use crate::store::rows::{MachineRow, OrderState, StageRow, TIMELINES, WINDOW};
use muster_protocol::class::{classify, fits};
use muster_protocol::etcd::EtcdMember;
use muster_protocol::status::{Evidence, Progress};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `provisioner` or `lan`.
    pub source: String,
    pub cluster: ClusterPart,
    pub admission: AdmissionPart,
    pub machines: Vec<MachinePart>,
    pub etcd: EtcdPart,
    /// What is not the real thing somewhere, in words.
    pub stand_ins: Vec<String>,
}

pub const API_VERSION: &str = "muster/v1";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterPart {
    pub name: String,
    pub id: String,
    pub topology: String,
    /// `none`, `initialising` or `up`.
    pub state: String,
    /// Who makes or joins the cluster now.
    pub lock: Option<String>,
    /// Why nothing is handed out.
    pub frozen: Option<String>,
    pub k3s: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AdmissionPart {
    pub open: bool,
    pub until_unix_ms: Option<u64>,
    pub taken: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassPart {
    pub declared: Option<String>,
    pub detected: Option<String>,
    /// `detected`, `declared, not detected`, or why it does not fit.
    pub fit: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachinePart {
    pub name: String,
    pub role: Option<String>,
    pub class: ClassPart,
    pub architecture: Option<String>,
    pub address: Option<String>,
    /// A lifecycle state, or `unseen`, or `silent`.
    pub state: String,
    pub step: Option<Progress>,
    pub reasons: Vec<String>,
    pub key: Option<String>,
    /// Keys that asked for this name and wait for a person.
    pub pending: Vec<PendingPart>,
    pub order: Option<OrderPart>,
    pub evidence: Evidence,
    pub taints: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub stages: Vec<StageRow>,
    pub stand_ins: Vec<String>,
    pub versions: Versions,
    pub last_seen_unix_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    pub agent: Option<String>,
    pub kernel: Option<String>,
    pub k3s: Option<String>,
    pub kata: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingPart {
    pub key: String,
    pub mac: String,
    pub detected: Option<String>,
    pub last_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPart {
    pub number: String,
    pub state: String,
    pub disk: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EtcdPart {
    pub members: Vec<EtcdMemberPart>,
    /// The leader's member name.
    pub leader: Option<String>,
    /// Decimal, as text: it is larger than what JSON numbers hold exactly.
    pub cluster_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdMemberPart {
    pub name: String,
    /// Decimal, as text.
    pub id: String,
    pub learner: bool,
}

impl EtcdPart {
    pub fn of(members: &[EtcdMember], leader: Option<u64>, cluster_id: Option<u64>) -> Self {
        let name = |member: &EtcdMember| {
            member.name.clone().unwrap_or_else(|| format!("{:x} (not started)", member.id))
        };
        let parts = members.iter().map(|member| EtcdMemberPart {
            name: name(member),
            id: member.id.to_string(),
            learner: member.learner,
        });
        Self {
            members: parts.collect(),
            leader: members.iter().find(|member| Some(member.id) == leader).map(name),
            cluster_id: cluster_id.map(|id| id.to_string()),
        }
    }
}

impl Core {
    pub fn picture(&self, now: Now) -> Result<Picture, CoreError> {
        let view = self.store.view()?;
        let mut machines = Vec::new();
        for machine in &self.config.machines {
            let row = machine_row(&view, &machine.name)?;
            let mut part = self.machine_part(now, machine, &row);
            part.stages = view.get(TIMELINES, machine.name.as_str())?.unwrap_or_default();
            part.order = newest_order(&view, &machine.name)?.map(|row| OrderPart {
                number: row.order.number.to_string(),
                state: order_word(&row.state).into(),
                disk: row.order.disk.serial.or(row.order.disk.wwn).unwrap_or_default(),
            });
            machines.push(part);
        }
        let window = view.get(WINDOW, "window")?.filter(|window| now.unix_ms < window.until_unix_ms);
        let mut stand_ins: Vec<String> =
            machines.iter().flat_map(|machine| machine.stand_ins.clone()).collect();
        stand_ins.sort();
        stand_ins.dedup();
        Ok(Picture {
            api_version: API_VERSION.into(),
            source: "provisioner".into(),
            cluster: ClusterPart {
                name: self.config.name.to_string(),
                id: self.trust.cluster.to_string(),
                topology: self.config.topology.word().into(),
                state: cluster_word(&self.record.cluster).into(),
                lock: self.record.lock.as_ref().map(|lock| lock.holder.to_string()),
                frozen: self.frozen(now)?,
                k3s: self.config.k3s.version.clone(),
            },
            admission: AdmissionPart {
                open: window.is_some(),
                until_unix_ms: window.as_ref().map(|window| window.until_unix_ms),
                taken: window
                    .iter()
                    .flat_map(|window| window.taken.iter().map(ToString::to_string))
                    .collect(),
            },
            etcd: self.etcd_part(now),
            machines,
            stand_ins,
        })
    }

    fn machine_part(&self, now: Now, machine: &Machine, row: &MachineRow) -> MachinePart {
        let live = self.live.get(&machine.name);
        let detected = row.inventory.as_ref().map(|inventory| classify(inventory, &self.config.hardware));
        let mut part = MachinePart {
            name: machine.name.to_string(),
            role: Some(machine.role.to_string()),
            class: ClassPart {
                declared: Some(machine.class.to_string()),
                detected: detected.map(|class| class.to_string()),
                fit: detected.map(|class| match fits(machine.class, class) {
                    Ok(fit) => fit.to_string(),
                    Err(wrong) => wrong.to_string(),
                }),
            },
            architecture: row.inventory.as_ref().map(|inventory| inventory.arch.to_string()),
            address: machine
                .address
                .map(|cidr| cidr.address)
                .or(row.address)
                .map(|address| address.to_string()),
            state: "unseen".into(),
            key: row.admitted.map(|admitted| admitted.key.fingerprint().to_string()),
            pending: row
                .pending
                .iter()
                .map(|pending| PendingPart {
                    key: pending.key.fingerprint().to_string(),
                    mac: pending.mac.to_string(),
                    detected: pending.detected.map(|class| class.to_string()),
                    last_unix_ms: pending.last_unix_ms,
                })
                .collect(),
            taints: machine.taints.clone(),
            labels: machine.labels.iter().cloned().collect(),
            last_seen_unix_ms: Some(row.last_seen_unix_ms).filter(|at| *at > 0),
            ..MachinePart::default()
        };
        if let Some(live) = live {
            self.add_live(now, &mut part, live);
        } else if part.last_seen_unix_ms.is_some() {
            part.state = "silent".into();
            part.reasons.push("not heard since this provisioner started".into());
        }
        // Nobody expects a machine that was never heard to start k3s.
        if let Some(why) = self.decision.waiting.get(&machine.name).filter(|_| live.is_some()) {
            part.reasons.push(why.clone());
        }
        // An agent's own reason is often the very words that it was told.
        let mut seen = std::collections::BTreeSet::new();
        part.reasons.retain(|reason| seen.insert(reason.clone()));
        part
    }

    fn add_live(&self, now: Now, part: &mut MachinePart, live: &Live) {
        part.last_seen_unix_ms = Some(live.heard_unix_ms);
        part.key = part.key.take().or(Some(live.key.to_string()));
        let told = live.hello.as_ref().and_then(|hello| hello.wait.as_ref());
        match &live.status {
            Some(status) => {
                part.add_status(status);
                // The hello is older than a status of the installed system.
                if status.image.is_none() {
                    part.reasons.extend(told.map(|wait| wait.reason.clone()));
                }
            }
            None => {
                part.state = if told.is_some() { "waiting" } else { "netbooted" }.into();
                part.reasons.extend(told.map(|wait| wait.reason.clone()));
            }
        }
        if let Some(ms) = live.silent_for(now.mono_ms) {
            part.reasons.insert(0, format!("not heard for {} s; it was {}", ms / 1000, part.state));
            part.state = "silent".into();
            part.step = None;
        }
    }

    fn etcd_part(&self, now: Now) -> EtcdPart {
        let fresh = self.heard.values().filter(|heard| now.mono_ms.saturating_sub(heard.at_ms) <= 30_000);
        let best = fresh
            .filter_map(|heard| Some((heard.at_ms, heard.report.own.as_ref()?)))
            .filter_map(|(at, own)| {
                Some((own.learner, std::cmp::Reverse(at), own, own.members.as_ref().ok()?))
            })
            .min_by_key(|(learner, at, _, _)| (*learner, *at));
        match best {
            Some((_, _, own, members)) => {
                EtcdPart::of(members, own.leader, own.identity.map(|identity| identity.cluster_id))
            }
            None => EtcdPart::default(),
        }
    }
}

impl MachinePart {
    /// What the machine's own agent says of it.
    pub fn add_status(&mut self, status: &muster_protocol::status::Status) {
        self.state = status.state.to_string();
        self.step = status.step.clone();
        self.reasons.extend(status.reasons.iter().cloned());
        self.architecture = Some(status.arch.to_string());
        if let Some(address) = status.address {
            self.address = Some(address.to_string());
        }
        self.class.detected = Some(status.detected.to_string());
        self.class.fit = status.fit.map(|fit| fit.to_string()).or(self.class.fit.take());
        self.evidence = status.evidence.clone();
        self.stand_ins = status.stand_ins.clone();
        self.versions = Versions {
            agent: Some(status.agent_version.clone()),
            kernel: Some(status.kernel.clone()),
            k3s: status.evidence.k3s.as_ref().map(|k3s| k3s.version.clone()),
            kata: status.evidence.kata.as_ref().map(|kata| kata.version.clone()),
        };
    }
}

pub(super) fn order_word(state: &OrderState) -> &'static str {
    match state {
        OrderState::Open => "open",
        OrderState::Held { .. } => "held",
        OrderState::Done { .. } => "done",
        OrderState::Superseded { .. } => "superseded",
    }
}

fn cluster_word(cluster: &Cluster) -> &'static str {
    match cluster {
        Cluster::None => "none",
        Cluster::Initialising { .. } => "initialising",
        Cluster::Up { .. } => "up",
    }
}
