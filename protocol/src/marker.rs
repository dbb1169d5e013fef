//! What the disk remembers: two checksummed 4 KiB copies, written alternately, in a fixed place of their own.
//!
//! The newer valid copy counts. A torn or damaged copy is simply not valid; with none valid there is no marker.

use crate::hello::MarkerSummary;
use crate::ids::{ClusterId, Digest, NodeName, Number};
use crate::keys::Fingerprint;
use crate::wire::{self, Versioned};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Bytes of one copy.
pub const COPY_BYTES: usize = 4096;
/// Where the marker's place begins: right behind the primary GPT (34 sectors of 512 B, 6 of 4 KiB, rounded to 1 MiB).
pub const OFFSET: u64 = 1 << 20;
/// Length of the place; partitions start behind it.
pub const LENGTH: u64 = 1 << 20;
/// The two copies lie this far apart, so that one torn or bad block does not take both.
pub const COPY_STRIDE: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"MUSTERMK";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Rises with every write; its parity says which copy is overwritten.
    pub sequence: u64,
    pub cluster: ClusterId,
    pub node: NodeName,
    pub key: Fingerprint,
    pub order: Number,
    pub state: MarkerState,
    /// Slot A and slot B.
    pub slots: [Option<Slot>; 2],
    /// The provisioner announced a reinstall: this boot waits longer for its answer.
    pub reinstall_pending: bool,
    /// UKIs fetched and kexec'd since the last good boot, so that it happens once each.
    pub fetched: Vec<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkerState {
    Installing,
    Installed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub image: Digest,
    pub uki: Digest,
    /// File name on the ESP without boot counter, such as `muster-6.12.48-0123abcd`.
    pub uki_name: String,
    pub kernel_release: String,
    /// Rises with each written slot: the newest good one is booted.
    pub written: u64,
    pub tries_left: u8,
    pub good: bool,
}

impl Versioned for Marker {
    const VERSION: u8 = 1;
}

impl Marker {
    /// The slot to boot: the newest that is good or may still be tried, and fits this kernel.
    pub fn slot_to_boot(&self, kernel_release: &str) -> Option<usize> {
        if self.state != MarkerState::Installed {
            return None;
        }
        let usable =
            |slot: &Slot| (slot.good || slot.tries_left > 0) && slot.kernel_release == kernel_release;
        (0..self.slots.len())
            .filter(|at| self.slots[*at].as_ref().is_some_and(usable))
            .max_by_key(|at| self.slots[*at].as_ref().map(|slot| slot.written))
    }

    /// For `hello`.
    pub fn summary(&self) -> MarkerSummary {
        let newest = self.slots.iter().flatten().max_by_key(|slot| slot.written);
        MarkerSummary {
            cluster: self.cluster,
            order: self.order,
            installed: self.state == MarkerState::Installed,
            uki: newest.map_or(Digest([0; 32]), |slot| slot.uki),
            image: newest.map_or(Digest([0; 32]), |slot| slot.image),
        }
    }

    /// Offset on the disk of the copy that this marker overwrites.
    pub fn offset(&self) -> u64 {
        OFFSET + (self.sequence % 2) * COPY_STRIDE
    }

    /// One copy: magic, length, body, SHA-256, zeros. `None` when the body does not fit (it is bounded, so it does).
    pub fn to_copy(&self) -> Option<[u8; COPY_BYTES]> {
        let body = wire::encode(self);
        let mut copy = [0; COPY_BYTES];
        let end = 12 + body.len();
        if end + 32 > COPY_BYTES {
            return None;
        }
        copy[..8].copy_from_slice(MAGIC);
        copy[8..12].copy_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
        copy[12..end].copy_from_slice(&body);
        let digest = Digest::of(&copy[..end]);
        copy[end..end + 32].copy_from_slice(&digest.0);
        Some(copy)
    }

    fn from_copy(copy: &[u8]) -> Option<Self> {
        let length = u32::from_le_bytes(copy.get(8..12)?.try_into().ok()?) as usize;
        let end = 12_usize.checked_add(length)?;
        let sum = copy.get(end..end.checked_add(32)?)?;
        if copy.get(..8)? != MAGIC || Digest::of(copy.get(..end)?).0 != sum {
            return None;
        }
        wire::decode(&copy[12..end]).ok()
    }

    /// The newer valid one of the two copies, as read from `OFFSET` and `OFFSET + COPY_STRIDE`.
    pub fn newest(first: &[u8], second: &[u8]) -> Option<Self> {
        match (Self::from_copy(first), Self::from_copy(second)) {
            (Some(a), Some(b)) => Some(if a.sequence >= b.sequence { a } else { b }),
            (one, other) => one.or(other),
        }
    }
}
