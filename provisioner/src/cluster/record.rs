//! The durable record of etcd membership: one writer, saved before anything is granted.

use muster_protocol::etcd::Identity;
use muster_protocol::ids::{Digest, NodeName, Number};
use muster_protocol::wire::Versioned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub cluster: Cluster,
    /// At most one change at a time. It has no expiry: evidence releases it, or a person.
    pub lock: Option<Lock>,
    /// Declared servers that a person said need not answer before init.
    pub without: Vec<NodeName>,
    /// Unix seconds of the last change of the member list: a snapshot must be younger.
    pub changed_at: u64,
    /// Add-ons by name, with the digest of what was applied last.
    pub applied: BTreeMap<String, Digest>,
}

impl Versioned for Record {
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cluster {
    #[default]
    None,
    Initialising {
        node: NodeName,
        nonce: [u8; 16],
        /// The order under which its disk was installed: under another one it is another disk, and the cluster that
        /// may have begun on this one is lost.
        installation: Number,
    },
    Up {
        identity: Identity,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub holder: NodeName,
    pub fence: Number,
    pub purpose: Purpose,
    /// The holder was seen in a member list under this fence.
    pub listed: Listed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    Init,
    Join,
}

/// How far a joiner was seen to come. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Listed {
    Never,
    /// Added, etcd not started: its k3s may still be in its join loop.
    Unstarted,
    /// Started: there is a WAL on its disk, so it cannot join anew without the gate.
    Started,
}
