//! Permission to write one machine's disk, once, held by one key.

use crate::class::Class;
use crate::ids::{Digest, NodeName, Number};
use crate::inventory::DiskId;
use crate::keys::Fingerprint;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub number: Number,
    pub node: NodeName,
    pub key: Fingerprint,
    pub class: Class,
    /// The one disk, by identity and size; kernel names change from boot to boot.
    pub disk: DiskId,
    /// What may be lost.
    pub wipe: Wipe,
    /// Digest of the node image's `ImageIndex`.
    pub image: Digest,
    /// Digest and size of the UKI for the ESP.
    pub uki: Digest,
    pub uki_bytes: u64,
    /// Digest and size of the boot loader for the ESP.
    pub loader: Digest,
    pub loader_bytes: u64,
    /// Unix seconds until which it may be accepted.
    pub expires_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wipe {
    /// The disk must pass the emptiness test of design §7.
    OnlyEmpty,
    /// A person saw what is on it: the disk must still match this evidence.
    Plan(PlanId),
}

crate::hex::hex_id!(
    /// A hash of the disk's identity and of what was found on it; a changed disk voids it.
    PlanId,
    8
);

impl PlanId {
    pub fn of(disk: &DiskId, evidence: &Digest) -> Self {
        let mut bytes = alloc::vec::Vec::new();
        for part in [disk.wwn.as_deref().unwrap_or(""), disk.serial.as_deref().unwrap_or("")] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&disk.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&evidence.0);
        let mut short = [0; 8];
        short.copy_from_slice(&Digest::of(&bytes).0[..8]);
        Self(short)
    }
}

impl Versioned for Order {
    const VERSION: u8 = 1;
}

impl Statement for Order {
    const KIND: Kind = Kind::Order;
    fn audience(&self) -> Option<(&NodeName, Fingerprint)> {
        Some((&self.node, self.key))
    }
    fn class(&self) -> Option<Class> {
        Some(self.class)
    }
    fn number(&self) -> Option<Number> {
        Some(self.number)
    }
    fn expires_at(&self) -> Option<u64> {
        Some(self.expires_at)
    }
}
