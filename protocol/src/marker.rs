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
/// Highest sequence that is believed: no disk is written that often, and there must always be a next one.
const MAX_SEQUENCE: u64 = 1 << 62;
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

    /// One copy read back; `None` when it is torn, damaged, or never was one.
    pub fn from_copy(copy: &[u8]) -> Option<Self> {
        let length = u32::from_le_bytes(copy.get(8..12)?.try_into().ok()?) as usize;
        let end = 12_usize.checked_add(length)?;
        let sum = copy.get(end..end.checked_add(32)?)?;
        if copy.get(..8)? != MAGIC || Digest::of(copy.get(..end)?).0 != sum {
            return None;
        }
        wire::decode(&copy[12..end]).ok().filter(|marker: &Self| marker.sequence <= MAX_SEQUENCE)
    }

    /// Whether both say the same, whenever they were written.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        Self { sequence: other.sequence, ..self.clone() } == *other
    }

    /// The newer valid one of the two copies, as read from `OFFSET` and `OFFSET + COPY_STRIDE`.
    pub fn newest(first: &[u8], second: &[u8]) -> Option<Self> {
        match (Self::from_copy(first), Self::from_copy(second)) {
            (Some(a), Some(b)) => Some(if a.sequence >= b.sequence { a } else { b }),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn marker(sequence: u64, state: MarkerState) -> Marker {
        Marker {
            sequence,
            cluster: ClusterId([1; 16]),
            node: "mini-pc-1".parse().unwrap(),
            key: Fingerprint([2; 10]),
            order: Number { delegation: 1, generation: 0, n: 7 },
            state,
            slots: [Some(slot(1, "6.12.48", true)), None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    fn slot(written: u64, kernel: &str, good: bool) -> Slot {
        Slot {
            image: Digest([3; 32]),
            uki: Digest([4; 32]),
            uki_name: "muster-6.12.48-04040404".into(),
            kernel_release: kernel.into(),
            written,
            tries_left: 3,
            good,
        }
    }

    #[test]
    fn the_newer_copy_counts_wherever_it_lies() {
        let old = marker(4, MarkerState::Installing);
        let new = marker(5, MarkerState::Installed);
        let (a, b) = (old.to_copy().unwrap(), new.to_copy().unwrap());
        assert_eq!(Marker::newest(&a, &b).unwrap(), new);
        assert_eq!(Marker::newest(&b, &a).unwrap(), new);
        assert_ne!(old.offset(), new.offset());
    }

    #[test]
    fn a_copy_torn_at_any_byte_leaves_the_other() {
        let old = marker(4, MarkerState::Installing);
        let whole = old.to_copy().unwrap();
        let new = marker(5, MarkerState::Installed).to_copy().unwrap();
        let before = marker(3, MarkerState::Installing).to_copy().unwrap();
        for cut in 0..COPY_BYTES {
            let mut torn = before;
            torn[..cut].copy_from_slice(&new[..cut]);
            let seen = Marker::newest(&whole, &torn).unwrap();
            assert!(seen == old || seen.sequence == 5, "cut at {cut} gave {}", seen.sequence);
        }
    }

    #[test]
    fn zeros_noise_and_short_reads_are_no_marker() {
        assert_eq!(Marker::newest(&[0; COPY_BYTES], &[0xff; COPY_BYTES]), None);
        assert_eq!(Marker::newest(&[], b"MUSTERMK\xff\xff\xff\xff"), None);
    }

    #[test]
    fn a_sequence_that_leaves_no_next_one_is_not_believed() {
        let copy = marker(u64::MAX, MarkerState::Installed).to_copy().unwrap();
        assert_eq!(Marker::from_copy(&copy), None);
    }

    #[test]
    fn the_newest_slot_that_fits_the_kernel_is_booted() {
        let mut both = marker(1, MarkerState::Installed);
        both.slots[1] = Some(slot(2, "6.12.48", false));
        assert_eq!(both.slot_to_boot("6.12.48"), Some(1));
        assert_eq!(both.slot_to_boot("6.13.0"), None);
        if let Some(b) = &mut both.slots[1] {
            b.tries_left = 0;
        }
        assert_eq!(both.slot_to_boot("6.12.48"), Some(0));
        both.state = MarkerState::Installing;
        assert_eq!(both.slot_to_boot("6.12.48"), None);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(at in 0..4096_usize * 8) {
            let whole = marker(9, MarkerState::Installed);
            let mut copy = whole.to_copy().unwrap();
            copy[at / 8] ^= 1 << (at % 8);
            // Behind the sum there are only zeros that nobody reads.
            let seen = Marker::from_copy(&copy);
            prop_assert!(seen.is_none() || seen == Some(whole));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut copy = MAGIC.to_vec();
            copy.extend_from_slice(&bytes);
            prop_assert!(Marker::from_copy(&copy).is_none());
        }
    }
}
