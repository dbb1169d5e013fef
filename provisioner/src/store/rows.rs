//! What a row holds. Fields are only added, with a default, so that every older store can still be read.

use super::Table;
use muster_protocol::class::Class;
use muster_protocol::grant::Action;
use muster_protocol::hello::MarkerSummary;
use muster_protocol::ids::{Arch, ClusterId, Digest, Mac, NodeName, Number};
use muster_protocol::inventory::{DiskId, Inventory};
use muster_protocol::keys::{Fingerprint, PublicKey};
use muster_protocol::order::Order;
use muster_protocol::roster::Operator;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub const COUNTERS: Table<u64> = Table::new("counters");
/// Key: the node's name.
pub const MACHINES: Table<MachineRow> = Table::new("machines");
/// Key: the fingerprint. Which machine an admitted key is.
pub const KEYS: Table<KeyRow> = Table::new("keys");
/// Key: [`number_key`] of the order.
pub const ORDERS: Table<OrderRow> = Table::new("orders");
/// Key: name and sequence; the cluster's own have the name `-`.
pub const EVENTS: Table<EventRow> = Table::new("events");
/// Key: the node's name.
pub const TIMELINES: Table<Vec<StageRow>> = Table::new("timelines");
/// Key: the node's name; content without number and expiry, to see whether something changed.
pub const CURRENT: Table<Current> = Table::new("current");
/// Key: [`number_key`] of the fence.
pub const COMMANDS: Table<CommandRow> = Table::new("commands");
/// Key: recipient's fingerprint and purpose; the box itself is in `signed`.
pub const BOXES: Table<BoxRow> = Table::new("boxes");
/// Key: what it is, such as `uki/x86_64` or `k3s/v1.36.3+k3s1/x86_64`.
pub const ARTIFACTS: Table<ArtifactRow> = Table::new("artifacts");
/// Key: `window`, `frozen`, `home`, `operators`.
pub const WINDOW: Table<Window> = Table::new("window");
pub const FROZEN: Table<Frozen> = Table::new("frozen");
pub const HOME: Table<Home> = Table::new("home");
pub const OPERATORS: Table<Vec<Operator>> = Table::new("operators");
/// Key: the machine's MAC.
pub const TRACES: Table<Trace> = Table::new("traces");

/// `membership` and `signed` hold bytes, not JSON.
pub(super) const TABLES: &[&str] = &[
    "counters",
    "machines",
    "keys",
    "orders",
    "events",
    "timelines",
    "current",
    "commands",
    "boxes",
    "artifacts",
    "window",
    "frozen",
    "home",
    "operators",
    "traces",
    "signed",
];

/// Sorts as numbers compare.
pub fn number_key(number: Number) -> String {
    format!("{:010}.{:010}.{:020}", number.delegation, number.generation, number.n)
}

/// To which keys this store belongs; a store copied beside other keys is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    pub cluster: ClusterId,
    pub recovery: PublicKey,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRow {
    #[serde(default)]
    pub admitted: Option<Admitted>,
    /// Keys that asked for this name and were not taken, newest last, bounded.
    #[serde(default)]
    pub pending: Vec<Pending>,
    #[serde(default)]
    pub inventory: Option<Inventory>,
    #[serde(default)]
    pub marker: Option<MarkerSummary>,
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The order in force or the last one.
    #[serde(default)]
    pub order: Option<Number>,
    /// This key was seen on an installed disk.
    #[serde(default)]
    pub installed: bool,
    #[serde(default)]
    pub last_seen_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub key: PublicKey,
    pub at_unix_ms: u64,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    pub name: NodeName,
    pub key: PublicKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// A person compared the fingerprint.
    Approved { by: Fingerprint },
    /// It was the first key of a declared machine in an admission window.
    Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub key: PublicKey,
    pub mac: Mac,
    pub detected: Option<Class>,
    pub first_unix_ms: u64,
    pub last_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRow {
    pub order: Order,
    pub state: OrderState,
    pub made_unix_ms: u64,
    /// The operator who asked for it; `None` when it came of itself at admission.
    #[serde(default)]
    pub by: Option<Fingerprint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderState {
    Open,
    Held { key: Fingerprint, disk: DiskId, at_unix_ms: u64 },
    Done { at_unix_ms: u64 },
    Superseded { by: Number },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    pub at_unix_ms: u64,
    pub what: String,
    /// The operator and the command, where a person did it.
    #[serde(default)]
    pub by: Option<Fingerprint>,
}

/// A finished step of a boot, in wall time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRow {
    pub step: String,
    pub at_unix_ms: u64,
    pub ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Which boot it belongs to; empty for what the provisioner saw before the agent spoke.
    #[serde(default)]
    pub boot: String,
}

/// The manifest or roster in force: its number, and what it says apart from number and expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    pub number: Number,
    pub content: Digest,
    pub expires_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRow {
    pub node: NodeName,
    pub action: Action,
    pub expires_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxRow {
    pub from: Fingerprint,
    pub at_unix_ms: u64,
}

/// A registered artifact: files by digest, and words about them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRow {
    pub kind: ArtifactKind,
    pub arch: Arch,
    pub version: String,
    pub files: Vec<ArtifactFile>,
    /// Kernel release, for UKIs and node images.
    #[serde(default)]
    pub kernel_release: Option<String>,
    /// What is not the real thing, in words.
    #[serde(default)]
    pub stand_in: Option<String>,
    pub registered_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    Uki,
    Loader,
    NodeImage,
    Kata,
    K3s,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Name inside the artifact: `boot-x86_64.efi`, `k3s`, `index`, `blob`.
    pub path: String,
    pub mode: u32,
    pub digest: Digest,
    pub bytes: u64,
}

/// An admission window that is or was open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub opened_unix_ms: u64,
    pub until_unix_ms: u64,
    pub by: Fingerprint,
    /// Machines whose first key was taken in it.
    pub taken: Vec<NodeName>,
}

/// Somebody knows higher numbers than this store gave: it is an old copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    pub at_unix_ms: u64,
    pub heard: Number,
    pub own: Number,
    pub from: String,
}

/// What DHCP, TFTP and HTTP saw of a machine's last attempt to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    #[serde(default)]
    pub discover: Option<u64>,
    #[serde(default)]
    pub offer: Option<u64>,
    #[serde(default)]
    pub request_4011: Option<u64>,
    #[serde(default)]
    pub ack_4011: Option<u64>,
    #[serde(default)]
    pub file_start: Option<u64>,
    #[serde(default)]
    pub file_done: Option<FileDone>,
    #[serde(default)]
    pub file_failed: Option<(u64, String)>,
    #[serde(default)]
    pub hello: Option<u64>,
    /// What was ignored and why, counted.
    #[serde(default)]
    pub ignored: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDone {
    pub at_unix_ms: u64,
    pub name: String,
    pub bytes: u64,
    pub ms: u64,
}
