//! The partition table (UEFI 2.10 §5.3): protective MBR, primary and backup GPT, as bytes and their places.

use super::disk::Disk;
use super::plan::{ENTRIES_BYTES, Part, Plan};
use std::io;
use std::ops::Range;

/// Writes the table: the backup first, so that a cut in the middle leaves one whole copy or none.
pub fn write(disk: &mut dyn Disk, plan: &Plan) -> io::Result<u64> {
    let mut bytes = 0;
    for (offset, block) in table(plan) {
        disk.write_at(offset, &block)?;
        bytes += block.len() as u64;
    }
    disk.flush()?;
    Ok(bytes)
}

/// Everything to be written, in this order.
pub fn table(plan: &Plan) -> Vec<(u64, Vec<u8>)> {
    let block = u64::from(plan.block_bytes);
    let entries = entries(plan);
    let sum = crc32(&entries);
    let last = plan.size - block;
    let backup_entries = last - ENTRIES_BYTES;
    vec![
        (backup_entries, entries.clone()),
        (last, header(plan, sum, last, block, backup_entries)),
        (2 * block, entries.clone()),
        (block, header(plan, sum, block, last, 2 * block)),
        (0, protective_mbr(plan)),
    ]
}

fn entries(plan: &Plan) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRIES_BYTES as usize);
    for part in plan.parts() {
        bytes.extend_from_slice(&entry(part, u64::from(plan.block_bytes)));
    }
    bytes.resize(ENTRIES_BYTES as usize, 0);
    bytes
}

fn entry(part: &Part, block: u64) -> [u8; 128] {
    let mut entry = [0; 128];
    entry[..16].copy_from_slice(&part.kind.0);
    entry[16..32].copy_from_slice(&part.guid.0);
    entry[32..40].copy_from_slice(&(part.bytes.start / block).to_le_bytes());
    entry[40..48].copy_from_slice(&(part.bytes.end / block - 1).to_le_bytes());
    for (at, unit) in part.name.encode_utf16().take(36).enumerate() {
        entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
    }
    entry
}

fn header(plan: &Plan, entries_sum: u32, mine: u64, other: u64, entries_at: u64) -> Vec<u8> {
    let block = u64::from(plan.block_bytes);
    let mut header = Vec::with_capacity(plan.block_bytes as usize);
    header.extend_from_slice(b"EFI PART");
    header.extend_from_slice(&0x0001_0000_u32.to_le_bytes());
    header.extend_from_slice(&92_u32.to_le_bytes());
    // The header's own sum, filled in below, and four reserved bytes.
    header.extend_from_slice(&[0; 8]);
    for at in [mine, other, plan.usable.start, plan.usable.end - block] {
        header.extend_from_slice(&(at / block).to_le_bytes());
    }
    header.extend_from_slice(&plan.disk.0);
    header.extend_from_slice(&(entries_at / block).to_le_bytes());
    header.extend_from_slice(&128_u32.to_le_bytes());
    header.extend_from_slice(&128_u32.to_le_bytes());
    header.extend_from_slice(&entries_sum.to_le_bytes());
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header.resize(plan.block_bytes as usize, 0);
    header
}

/// One partition of type EE over the whole disk, so that tools that know no GPT keep their hands off.
fn protective_mbr(plan: &Plan) -> Vec<u8> {
    let blocks = plan.size / u64::from(plan.block_bytes) - 1;
    let mut mbr = vec![0; plan.block_bytes as usize];
    let entry = &mut mbr[446..462];
    // CHS 0/0/2 to the largest there is: nobody reads these since LBA, but the standard gives the values.
    entry[..8].copy_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(blocks).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

/// What a disk's primary GPT lists, for the survey: ranges of the used entries, not checked against any sum, since a
/// damaged table is still somebody's table. `head` is the disk's first 64 KiB.
pub fn listed(head: &[u8], block_bytes: u32) -> Option<Vec<Range<u64>>> {
    let block = u64::from(block_bytes);
    let header = head.get(block_bytes as usize..)?;
    if header.get(..8)? != b"EFI PART" {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let start = usize::try_from(number(72)?.checked_mul(block)?).ok()?;
    let (count, size) = (word(80)?.min(128) as usize, word(84)? as usize);
    let size = if size < 128 { 128 } else { size };
    let mut ranges = Vec::new();
    for at in 0..count {
        let Some(entry) = at.checked_mul(size).and_then(|at| head.get(start.checked_add(at)?..)) else {
            break;
        };
        let Some(entry) = entry.get(..128) else { break };
        if entry[..16] == [0; 16] {
            continue;
        }
        let lba = |at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        let (first, last) = (lba(32).saturating_mul(block), lba(40).saturating_add(1).saturating_mul(block));
        ranges.push(first..last.max(first));
    }
    Some(ranges)
}

/// CRC-32 of IEEE 802.3, bit by bit: 16 KiB once per install need no table.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Sizes, plan};
    use super::*;
    use muster_protocol::ids::{ClusterId, Number};
    use proptest::prelude::*;

    #[test]
    fn the_check_value_of_crc_32_comes_out() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_table_lists_the_planned_partitions() {
        for block in [512, 4096] {
            let plan = plan(24 << 30, block, &Sizes::DESIGN, ClusterId([1; 16]), Number::default()).unwrap();
            let mut head = vec![0; 64 << 10];
            for (offset, bytes) in table(&plan) {
                if offset < head.len() as u64 {
                    head[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
                }
            }
            let ranges: Vec<_> = plan.parts().iter().map(|part| part.bytes.clone()).collect();
            assert_eq!(listed(&head, block).unwrap(), ranges);
        }
    }

    proptest! {
        #[test]
        fn no_table_makes_the_reader_panic(noise in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut head = vec![0; 512];
            head.extend_from_slice(b"EFI PART");
            head.extend_from_slice(&noise);
            listed(&head, 512);
            listed(&head[512..], 512);
        }
    }
}
