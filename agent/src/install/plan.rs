//! Where everything goes on the disk: a function of its size, its block size and the order's number.
//!
//! The same order gives the same GUIDs, so a resumed install finds its own partitions and boot entry again and
//! leaves no stale ones.

use muster_protocol::ids::{ClusterId, Digest, Number};
use muster_protocol::image::FRAME_BYTES;
use muster_protocol::marker::{LENGTH, OFFSET};
use std::fmt;
use std::ops::Range;

/// The sizes of design §7, in one place; tests of small disks bring their own.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub esp: u64,
    /// Root A and root B, each.
    pub slot: u64,
    /// Less than this for data makes the disk too small.
    pub data_min: u64,
    /// How much of both ends of a disk is looked at, and zeroed by a wipe.
    pub edge: u64,
    /// Blocks looked at between the ends.
    pub samples: u32,
    pub frame: u64,
}

impl Sizes {
    pub const DESIGN: Self = Self {
        esp: 512 << 20,
        slot: 8 << 30,
        data_min: 4 << 30,
        edge: 16 << 20,
        samples: 1024,
        frame: FRAME_BYTES,
    };
}

/// Partitions start and end at multiples of this; every common erase block and RAID stripe divides it.
const ALIGN: u64 = 1 << 20;
/// Bytes of the table's 128 entries; with a header block in front at the start and behind it at the end.
pub(crate) const ENTRIES_BYTES: u64 = 128 * 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub size: u64,
    pub block_bytes: u32,
    pub disk: Guid,
    /// What the table calls usable: begins behind the marker's place, so that no tool puts a partition there.
    pub usable: Range<u64>,
    pub esp: Part,
    pub slots: [Part; 2],
    pub data: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub name: &'static str,
    pub kind: Guid,
    pub guid: Guid,
    pub bytes: Range<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the disk has {have} bytes, the layout needs {need}")]
    TooSmall { have: u64, need: u64 },
    #[error("the disk has logical blocks of {block_bytes} bytes; 512 and 4096 are known")]
    BlockSize { block_bytes: u32 },
}

impl Plan {
    /// In the table's order.
    pub fn parts(&self) -> [&Part; 4] {
        [&self.esp, &self.slots[0], &self.slots[1], &self.data]
    }
}

pub fn plan(
    size: u64,
    block_bytes: u32,
    sizes: &Sizes,
    cluster: ClusterId,
    order: Number,
) -> Result<Plan, Unfit> {
    if block_bytes != 512 && block_bytes != 4096 {
        return Err(Unfit::BlockSize { block_bytes });
    }
    let start = OFFSET + LENGTH;
    let table = ENTRIES_BYTES + u64::from(block_bytes);
    let need = start + sizes.esp + 2 * sizes.slot + sizes.data_min + ALIGN + table;
    if size < need {
        return Err(Unfit::TooSmall { have: size, need });
    }
    let guid = |what: &str| Guid::derive(cluster, order, what);
    let mut at = start;
    let mut part = |number, name, kind, bytes| {
        let range = at..at + bytes;
        at = range.end;
        Part { number, name, kind, guid: guid(name), bytes: range }
    };
    let esp = part(1, "muster-esp", Guid::ESP, sizes.esp);
    let slots = [
        part(2, "muster-root-a", Guid::LINUX, sizes.slot),
        part(3, "muster-root-b", Guid::LINUX, sizes.slot),
    ];
    let end = (size - table) / ALIGN * ALIGN;
    let rest = end - slots[1].bytes.end;
    let data = part(4, "muster-data", Guid::LINUX, rest);
    Ok(Plan { size, block_bytes, disk: guid("disk"), usable: start..size - table, esp, slots, data })
}

/// A GUID in the byte order of GPT and EFI: the first three groups little-endian (UEFI 2.10 appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// C12A7328-F81F-11D2-BA4B-00A0C93EC93B
    pub(crate) const ESP: Self = Self([
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
    ]);
    /// 0FC63DAF-8483-4772-8E79-3D69D8477DE4, plain Linux data: the types of the Discoverable Partitions
    /// Specification would make systemd mount slots by itself.
    pub(crate) const LINUX: Self = Self([
        0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
    ]);

    fn derive(cluster: ClusterId, order: Number, what: &str) -> Self {
        let mut seed = b"muster guid 1\0".to_vec();
        seed.extend_from_slice(&cluster.0);
        seed.extend_from_slice(&order.delegation.to_le_bytes());
        seed.extend_from_slice(&order.generation.to_le_bytes());
        seed.extend_from_slice(&order.n.to_le_bytes());
        seed.extend_from_slice(what.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Digest::of(&seed).0[..16]);
        // Version 8, made by whoever made it, and the usual variant (RFC 9562 §5.8).
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The same value in the byte order of ext4 and RFC 9562.
    pub fn big_endian(&self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.big_endian().iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: u64) -> Number {
        Number { delegation: 1, generation: 0, n }
    }

    fn planned(size: u64, block_bytes: u32) -> Result<Plan, Unfit> {
        plan(size, block_bytes, &Sizes::DESIGN, ClusterId([7; 16]), order(3))
    }

    #[test]
    fn partitions_are_aligned_and_follow_each_other_behind_the_marker() {
        for (size, block) in [(24 << 30, 512), (24 << 30, 4096), (500_107_862_016, 512), (21 << 30, 512)] {
            let plan = planned(size, block).unwrap();
            let mut end = OFFSET + LENGTH;
            for part in plan.parts() {
                assert_eq!(part.bytes.start, end, "{}", part.name);
                assert_eq!(part.bytes.start % ALIGN, 0);
                end = part.bytes.end;
            }
            assert!(end <= plan.usable.end && size - end < 2 * ALIGN);
            assert_eq!((size - plan.usable.end) % u64::from(block), 0);
        }
    }

    #[test]
    fn a_disk_one_block_too_small_is_refused() {
        let Err(Unfit::TooSmall { need, .. }) = planned(1 << 30, 512) else { panic!("1 GiB is too small") };
        assert!(planned(need, 512).is_ok());
        assert_eq!(planned(need - 512, 512), Err(Unfit::TooSmall { have: need - 512, need }));
        assert_eq!(planned(0, 512), Err(Unfit::TooSmall { have: 0, need }));
    }

    #[test]
    fn odd_block_sizes_are_refused() {
        for block_bytes in [0, 520, 1024, 8192] {
            assert_eq!(planned(1 << 40, block_bytes), Err(Unfit::BlockSize { block_bytes }));
        }
    }

    #[test]
    fn the_same_order_gives_the_same_guids_and_another_order_other_ones() {
        let one = planned(24 << 30, 512).unwrap();
        assert_eq!(one, planned(24 << 30, 512).unwrap());
        let other = plan(24 << 30, 512, &Sizes::DESIGN, ClusterId([7; 16]), order(4)).unwrap();
        let all: std::collections::HashSet<Guid> =
            one.parts().iter().chain(other.parts().iter()).map(|part| part.guid).collect();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn a_guid_reads_as_the_tools_print_it() {
        assert_eq!(Guid::ESP.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(Guid::LINUX.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
    }
}
