//! The versioned exchange of an agent with the provisioner: `POST /agent/v1/…` over TLS, one postcard body each way.
//!
//! `sync` carries everything periodic in one question: status, evidence, results; and brings back what is new.

use crate::etcd::{NodeSeen, ServerReport};
use crate::grant::{Command, CommandResult, Grant};
use crate::hello::Seen;
use crate::ids::Number;
use crate::inventory::DiskId;
use crate::manifest::Manifest;
use crate::roster::Roster;
use crate::sealed::SealedBox;
use crate::signed::{Clock, Signed};
use crate::status::Status;
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Longest body of any agent request, in bytes; more is answered 413.
pub const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    pub status: Status,
    pub seen: Seen,
    /// The order that the marker calls installed; closes it.
    pub installed: Option<Number>,
    /// Only from servers.
    pub server: Option<ServerReport>,
    /// k3s could start if it had a grant: the gate refused for want of one.
    pub wants_grant: bool,
    pub results: Vec<CommandResult>,
    /// Tokens sealed by the init server to other nodes' keys, for relay.
    pub boxes: Vec<Signed<SealedBox>>,
    /// Asks for a `Clock` with this nonce.
    pub clock_nonce: Option<[u8; 16]>,
}

impl Versioned for SyncRequest {
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReply {
    /// Absent when the agent's `seen` already has it.
    pub manifest: Option<Signed<Manifest>>,
    pub roster: Option<Signed<Roster>>,
    pub clock: Option<Signed<Clock>>,
    pub grant: Option<Signed<Grant>>,
    pub commands: Vec<Signed<Command>>,
    /// Boxes for this node that it has not acknowledged by starting k3s with them.
    pub boxes: Vec<Signed<SealedBox>>,
    /// This node as a server's agent read it last.
    pub node: Option<NodeSeen>,
    /// Milliseconds until the next sync is wanted.
    pub next_ms: u32,
}

impl Versioned for SyncReply {
    const VERSION: u8 = 1;
}

/// `POST /agent/v1/claim`: this key takes the order for this disk. Answered the same way again until it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub order: Number,
    pub disk: DiskId,
}

impl Versioned for Claim {
    const VERSION: u8 = 1;
}

#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists at a time, on its way to or from the wire"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimAnswer {
    /// Held by you, with the node's manifest to seed.
    Held {
        manifest: Signed<Manifest>,
        roster: Signed<Roster>,
    },
    Refused {
        reason: String,
    },
}

impl Versioned for ClaimAnswer {
    const VERSION: u8 = 1;
}

/// `POST /agent/v1/report`: progress from the boot image (netbooted, waiting, installing).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub status: Status,
    /// Set once the marker says so: closes the order.
    pub installed: Option<Number>,
    /// Last lines of the log, when something failed.
    pub log: Vec<String>,
}

impl Versioned for Report {
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub next_ms: u32,
}

impl Versioned for Noted {
    const VERSION: u8 = 1;
}
