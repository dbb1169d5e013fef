//! What is on a disk (design §7): the emptiness test, the evidence that a plan id is made of, and words for a person.
//!
//! It only reads. The marker's place is left out of test and evidence, so that a held order can resume on a disk that
//! so far has nothing but its marker.

use super::disk::{CHUNK, Disk, read};
use super::plan::Sizes;
use super::{gpt, marker, signatures};
use muster_protocol::ids::{ClusterId, Digest};
use muster_protocol::inventory::Contents;
use muster_protocol::marker::{LENGTH, Marker, MarkerState, OFFSET};
use std::io;
use std::ops::Range;

/// `in_use` is what [`super::busy::in_use`] said about this disk; `ours` tells our marker from another cluster's.
pub fn survey(
    disk: &mut dyn Disk,
    in_use: &[String],
    ours: ClusterId,
    sizes: &Sizes,
) -> io::Result<Contents> {
    let marker = marker::read_marker(disk)?;
    let mut evidence = Evidence::new(disk.size());
    for range in looked_at(disk.size(), sizes) {
        evidence.add(disk, range)?;
    }
    let zero = evidence.zero;
    let foreign = marker.as_ref().is_some_and(|marker| marker.cluster != ours);
    let mut found = in_use.to_vec();
    found.extend(marker.map(|marker| words_of(&marker, ours)));
    if !zero {
        let before = found.len();
        found.extend(names(disk)?);
        if found.len() == before {
            found.push("data of an unknown kind".into());
        }
    }
    Ok(Contents {
        empty: zero && !foreign && in_use.is_empty(),
        evidence: evidence.digest(),
        found,
        busy: !in_use.is_empty(),
    })
}

/// Both ends in chunks, and single blocks between them; the same for the same size, in every boot.
fn looked_at(size: u64, sizes: &Sizes) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let behind = OFFSET + LENGTH;
    let mut chunks = |range: Range<u64>| {
        let mut at = range.start;
        while at < range.end {
            // Cut at multiples of the chunk, so that the marker's place is always a piece of its own.
            let end = ((at / CHUNK + 1) * CHUNK).min(range.end);
            if at < OFFSET || at >= behind {
                ranges.push(at..end);
            }
            at = end;
        }
    };
    let head = sizes.edge.min(size);
    let tail = size.saturating_sub(sizes.edge).max(head);
    chunks(0..head);
    chunks(tail..size);
    // One block in each of as many equal stretches, at a place that looks random but needs no memory.
    let start = head.max(behind).next_multiple_of(BLOCK);
    let stretch = tail.saturating_sub(start) / u64::from(sizes.samples.max(1)) / BLOCK * BLOCK;
    if stretch >= BLOCK {
        for sample in 0..u64::from(sizes.samples) {
            let mut seed = size.to_le_bytes().to_vec();
            seed.extend_from_slice(&sample.to_le_bytes());
            let mut luck = [0; 8];
            luck.copy_from_slice(&Digest::of(&seed).0[..8]);
            let at = start + sample * stretch + u64::from_le_bytes(luck) % (stretch / BLOCK) * BLOCK;
            ranges.push(at..at + BLOCK);
        }
    }
    ranges
}

const BLOCK: u64 = 4096;

/// SHA-256 over the disk's size and every piece: one byte for a piece of zeros, else its digest. Zeros, most of an
/// empty disk, are so told at memory speed.
struct Evidence {
    said: Vec<u8>,
    zero: bool,
}

impl Evidence {
    fn new(size: u64) -> Self {
        let mut said = b"muster evidence 1\0".to_vec();
        said.extend_from_slice(&size.to_le_bytes());
        Self { said, zero: true }
    }

    fn add(&mut self, disk: &mut dyn Disk, range: Range<u64>) -> io::Result<()> {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let bytes = read(disk, range.start, length)?;
        if is_zero(&bytes) {
            self.said.push(0);
        } else {
            self.zero = false;
            self.said.push(1);
            self.said.extend_from_slice(&Digest::of(&bytes).0);
        }
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.said)
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let chunks = bytes.chunks_exact(16);
    chunks.remainder().iter().all(|byte| *byte == 0) && chunks.into_iter().all(|chunk| chunk == [0; 16])
}

fn words_of(marker: &Marker, ours: ClusterId) -> String {
    let state = match marker.state {
        MarkerState::Installing => "half installed",
        MarkerState::Installed => "installed",
    };
    let whose = if marker.cluster == ours { "this cluster" } else { "another cluster" };
    format!("marker of {whose}: node {}, {state} by order {}", marker.node, marker.order)
}

/// The table and what its partitions, or the bare disk, look like.
fn names(disk: &mut dyn Disk) -> io::Result<Vec<String>> {
    let size = disk.size();
    let head = head_of(disk, 0..size)?;
    let mut names: Vec<String> =
        signatures::found(&head, &tail_of(disk, 0..size)?, size).into_iter().map(String::from).collect();
    if let Some(parts) = gpt::listed(&head, disk.block_bytes()) {
        names.push(counted("GPT", parts.len()));
        for (at, part) in parts.iter().take(32).enumerate() {
            let part = part.start.min(size)..part.end.min(size);
            if part.start >= part.end || !part.start.is_multiple_of(512) {
                continue;
            }
            let (head, tail) = (head_of(disk, part.clone())?, tail_of(disk, part.clone())?);
            let what = signatures::found(&head, &tail, part.end - part.start);
            if !what.is_empty() {
                names.push(format!("partition {}: {}", at + 1, what.join(", ")));
            }
        }
    } else if let Some(count) = signatures::mbr_partitions(&head) {
        names.push(counted("MBR", count));
    }
    Ok(names)
}

fn counted(table: &str, partitions: usize) -> String {
    format!("{table} with {partitions} partition{}", if partitions == 1 { "" } else { "s" })
}

fn head_of(disk: &mut dyn Disk, part: Range<u64>) -> io::Result<Vec<u8>> {
    let length = (part.end - part.start).min(signatures::HEAD as u64);
    read(disk, part.start, usize::try_from(length).unwrap_or(0))
}

fn tail_of(disk: &mut dyn Disk, part: Range<u64>) -> io::Result<Vec<u8>> {
    let length = (part.end - part.start).min(signatures::TAIL as u64);
    read(disk, part.end - length, usize::try_from(length).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_is_looked_at_in_the_same_places() {
        let size = 500 << 30;
        let ranges = looked_at(size, &Sizes::DESIGN);
        assert_eq!(ranges, looked_at(size, &Sizes::DESIGN));
        assert_eq!(ranges.len(), 15 + 16 + 1024);
        for range in &ranges {
            assert!(
                range.end <= size && (range.end <= OFFSET || range.start >= OFFSET + LENGTH),
                "{range:?}"
            );
        }
        let mut sorted = ranges.clone();
        sorted.sort_by_key(|range| range.start);
        assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start), "samples overlap");
    }

    #[test]
    fn a_disk_of_any_size_has_valid_places() {
        for size in [0, 512, 4096, 1 << 20, 3 << 20, 33 << 20, (40 << 20) + 512, (2 << 40) + 512] {
            for range in looked_at(size, &Sizes::DESIGN) {
                assert!(range.start < range.end && range.end <= size, "{size}: {range:?}");
            }
        }
    }

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        for length in [1, 15, 16, 17, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            bytes[length - 1] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
