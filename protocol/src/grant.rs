//! Permission to start k3s for init or join, and single-use commands to a server's agent. Each carries the fence.

use crate::etcd::Identity;
use crate::ids::{NodeName, Number};
use crate::keys::Fingerprint;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Rises with every lock; a gate that has seen a newer one refuses.
    pub fence: Number,
    pub node: NodeName,
    pub key: Fingerprint,
    pub start: Start,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Make the cluster. Given once ever; the nonce ties a resumed init to the disk that began it, and the order under which
    /// that disk was installed keeps a late answer from a disk that has taken its place.
    Init { nonce: [u8; 16], installation: Number },
    /// Join through the first of these voters whose CA fits.
    Join { identity: Identity, voters: Vec<(NodeName, Ipv4Addr)> },
}

impl Versioned for Grant {
    const VERSION: u8 = 1;
}

impl Statement for Grant {
    const KIND: Kind = Kind::Grant;
    fn audience(&self) -> Option<(&NodeName, Fingerprint)> {
        Some((&self.node, self.key))
    }
    fn number(&self) -> Option<Number> {
        Some(self.fence)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// One number per command; the agent runs each once and refuses lower ones.
    pub fence: Number,
    pub node: NodeName,
    pub key: Fingerprint,
    pub action: Action,
    pub expires_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `k3s etcd-snapshot save`.
    Snapshot { name: String },
    /// Server-side apply of cluster objects, by content.
    Apply { name: String, yaml: String },
    /// Bring a Node's taints and labels to what was declared.
    Label { node: NodeName, labels: Vec<(String, String)>, taints: Vec<String> },
}

impl Versioned for Command {
    const VERSION: u8 = 1;
}

impl Statement for Command {
    const KIND: Kind = Kind::Command;
    fn audience(&self) -> Option<(&NodeName, Fingerprint)> {
        Some((&self.node, self.key))
    }
    fn number(&self) -> Option<Number> {
        Some(self.fence)
    }
    fn expires_at(&self) -> Option<u64> {
        Some(self.expires_at)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    pub fence: Number,
    /// What it printed, or why it failed, in at most 2 KiB.
    pub outcome: Result<String, String>,
}
