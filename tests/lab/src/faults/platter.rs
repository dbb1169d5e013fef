//! What lies on a machine's disk, read past the machine: its marker, its partitions, and whether a root is the image.

use crate::nbd::Disk;
use anyhow::{Context, Result, ensure};
use muster_protocol::marker::{COPY_BYTES, COPY_STRIDE, Marker, OFFSET};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

const SECTOR: u64 = 512;
/// Entry of one partition in a GPT (UEFI 2.10, 5.3.3); the table begins at LBA 2.
const ENTRY: u64 = 128;

/// Where the layout of docs/install.md puts the first two partitions: known before there is a table.
pub(super) const ESP: Range<u64> = 2 << 20..514 << 20;
pub(super) const ROOT_A: Range<u64> = 514 << 20..8706 << 20;

pub(super) fn marker(disk: &Disk) -> Result<Option<Marker>> {
    let (mut first, mut second) = ([0; COPY_BYTES], [0; COPY_BYTES]);
    disk.read(OFFSET, &mut first)?;
    disk.read(OFFSET + COPY_STRIDE, &mut second)?;
    Ok(Marker::newest(&first, &second))
}

/// Where partition `number` lies, counted from 1.
pub(super) fn partition(disk: &Disk, number: u64) -> Result<Range<u64>> {
    let mut entry = [0; ENTRY as usize];
    disk.read(2 * SECTOR + (number - 1) * ENTRY, &mut entry)?;
    let lba = |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(entry[at..at + 8].try_into()?)) };
    let (first, last) = (lba(32)?, lba(40)?);
    ensure!(first > 2 && last > first, "the disk has no partition {number}");
    Ok(first * SECTOR..(last + 1) * SECTOR)
}

/// The first place at which slot A is not the image; `None` when it is, to the last byte.
pub(super) fn differs(disk: &Disk, image: &Path) -> Result<Option<u64>> {
    let start = partition(disk, 2)?.start;
    let mut file = File::open(image).with_context(|| image.display().to_string())?;
    let (mut want, mut have) = (vec![0; 4 << 20], vec![0; 4 << 20]);
    let mut at = 0;
    loop {
        let length = fill(&mut file, &mut want)?;
        if length == 0 {
            return Ok(None);
        }
        disk.read(start + at, &mut have[..length])?;
        if want[..length] != have[..length] {
            let offset = want.iter().zip(&have).position(|(want, have)| want != have).unwrap_or(0);
            return Ok(Some(at + offset as u64));
        }
        at += length as u64;
    }
}

/// Until the buffer is full or the file ends.
fn fill(file: &mut File, into: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < into.len() {
        match file.read(&mut into[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}
