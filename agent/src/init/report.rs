//! How a machine in the boot image is, for the provisioner's table: the same `Status` that an installed node sends.

use muster_protocol::class::Class;
use muster_protocol::ids::{InstanceId, NodeName};
use muster_protocol::inventory::Inventory;
use muster_protocol::keys::Fingerprint;
use muster_protocol::status::{Evidence, Progress, Stage, State, Status};
use std::net::Ipv4Addr;
use std::path::Path;

/// What changes from report to report.
#[derive(Debug, Clone)]
pub(super) struct Now {
    pub state: State,
    pub step: Option<Progress>,
    pub reasons: Vec<String>,
    pub address: Option<Ipv4Addr>,
    pub uptime_ms: u64,
    pub sequence: u64,
}

/// What stays the same during a boot.
#[derive(Debug, Clone)]
pub(super) struct Boot<'a> {
    pub node: Option<NodeName>,
    pub key: Fingerprint,
    pub boot: InstanceId,
    pub inventory: &'a Inventory,
    pub detected: Class,
    pub kernel: &'a str,
    pub stages: &'a [Stage],
}

pub(super) fn status(machine: &Boot<'_>, now: Now, memory_available: u64) -> Status {
    Status {
        node: machine.node.clone(),
        key: machine.key,
        boot: machine.boot,
        sequence: now.sequence,
        uptime_ms: now.uptime_ms,
        state: now.state,
        step: now.step,
        reasons: now.reasons,
        arch: machine.inventory.arch,
        // What it was declared as is the provisioner's to know; the boot image has no manifest.
        declared: None,
        detected: machine.detected,
        fit: None,
        role: None,
        address: now.address,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        kernel: machine.kernel.into(),
        image: None,
        manifest: None,
        evidence: Evidence::default(),
        stand_ins: Vec::new(),
        memory_total: machine.inventory.memory_bytes,
        memory_available,
        data_free: None,
        stages: machine.stages.to_vec(),
    }
}

/// `MemAvailable` in bytes.
pub(super) fn memory_available(root: &Path) -> u64 {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
