//! How a node is: made by its agent, sent to the provisioner, answered on the LAN, shown by CLI and report.

use crate::class::{Class, Fit};
use crate::etcd::NodeSeen;
use crate::ids::{Arch, Digest, InstanceId, NodeName, Number, Role, words};
use crate::keys::Fingerprint;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

words!(
    /// Where a machine is in its life. `draining` and `upgrading` come with those procedures.
    State {
        Netbooted = "netbooted",
        Waiting = "waiting",
        Installing = "installing",
        Booting = "booting",
        Installed = "installed",
        Joining = "joining",
        Ready = "ready",
        Degraded = "degraded",
        Failed = "failed",
    }
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: Option<NodeName>,
    pub key: Fingerprint,
    /// This boot of this machine.
    pub boot: InstanceId,
    /// Rises with every status of this boot.
    pub sequence: u64,
    /// Milliseconds since kernel start when this was made.
    pub uptime_ms: u64,
    pub state: State,
    /// The step that runs now, such as `write`.
    pub step: Option<Progress>,
    /// Why it is not ready, in words; empty when it is.
    pub reasons: Vec<String>,
    pub arch: Arch,
    pub declared: Option<Class>,
    pub detected: Class,
    pub fit: Option<Fit>,
    pub role: Option<Role>,
    pub address: Option<Ipv4Addr>,
    pub agent_version: String,
    pub kernel: String,
    /// Image of the booted slot; `None` while in the boot image.
    pub image: Option<Digest>,
    pub manifest: Option<Number>,
    pub evidence: Evidence,
    /// What is not the real thing here, in words.
    pub stand_ins: Vec<String>,
    pub memory_total: u64,
    pub memory_available: u64,
    pub data_free: Option<u64>,
    /// Stages of this boot so far, for the timeline.
    pub stages: Vec<Stage>,
}

impl Versioned for Status {
    const VERSION: u8 = 1;
}

impl Statement for Status {
    const KIND: Kind = Kind::Status;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub step: String,
    pub done: u64,
    pub total: u64,
}

/// One finished step. `started_ms` counts from kernel start; the provisioner turns it into wall time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub step: String,
    pub started_ms: u64,
    pub ms: u64,
    pub bytes: Option<u64>,
}

/// What `ready` is judged by; the report carries it whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub k3s: Option<K3sSeen>,
    pub etcd: Option<EtcdSeen>,
    pub kata: Option<KataSeen>,
    /// This node's Node object as a server's agent read it last.
    pub node: Option<NodeSeen>,
    /// A worker's load balancer reached a server.
    pub balancer: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3sSeen {
    pub version: String,
    /// systemd's ActiveState; `active` only after k3s said READY=1.
    pub unit: String,
    pub restarts: u32,
    /// Milliseconds since kernel start when the unit last became active.
    pub started_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSeen {
    pub voter: bool,
    pub leader: Option<u64>,
    pub member_id: u64,
    pub cluster_id: Option<u64>,
    pub ca: Option<Digest>,
    pub ready: bool,
    pub members: Vec<crate::etcd::EtcdMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KataSeen {
    pub version: String,
    /// Every file has the digest that was recorded when it was put in place.
    pub files: bool,
    pub kvm: bool,
    /// Milliseconds since kernel start when the switch was made or found made.
    pub in_place_ms: u64,
    /// The containerd drop-in is in place.
    pub handler: bool,
}
