//! A machine's disk from outside, when it is off: where its data partition lies, what a file in it holds, and which blocks
//! are its. debugfs reads; nothing is mounted and nothing is written.

use crate::child::run;
use anyhow::{Context, Result};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// QEMU's disks have sectors of 512 bytes.
const SECTOR: u64 = 512;
/// Primary table and its entries.
const TABLE: usize = 34 * 512;
const DATA: &str = "muster-data";

/// The ext4 of one machine's data partition.
#[derive(Debug)]
pub(super) struct Data {
    /// What debugfs opens.
    name: String,
    start: u64,
    end: u64,
    block: u64,
}

impl Data {
    /// `None`: the disk has no such partition (yet).
    pub(super) fn find(disk: &Path) -> Result<Option<Self>> {
        let mut table = vec![0; TABLE];
        let open = File::open(disk).with_context(|| format!("disk {}", disk.display()))?;
        open.read_exact_at(&mut table, 0).with_context(|| format!("disk {}", disk.display()))?;
        let Some(place) = partition(&table, DATA) else { return Ok(None) };
        // s_log_block_size, 24 bytes into the superblock at 1 KiB
        let mut log = [0; 4];
        open.read_exact_at(&mut log, place.start + 1024 + 24).context("the data partition's superblock")?;
        let block = 1024_u64 << u32::from_le_bytes(log).min(6);
        let name = format!("{}?offset={}", disk.display(), place.start);
        Ok(Some(Self { name, start: place.start, end: place.end, block }))
    }

    /// A file's content; empty when there is none of that name.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>> {
        cat(&self.name, path)
    }

    /// As the next boot would see it: with the journal replayed, on a copy. For what was written seconds before the end.
    pub(super) fn read_replayed(&self, path: &str, scratch: &Path) -> Result<Vec<u8>> {
        let (disk, _) = self.name.split_once('?').context("a disk's name")?;
        let mut copy = Command::new("dd");
        copy.arg(format!("if={disk}")).arg(format!("of={}", scratch.display()));
        copy.args(["bs=4M", "conv=sparse", "iflag=skip_bytes,count_bytes", "status=none"]);
        copy.arg(format!("skip={}", self.start)).arg(format!("count={}", self.end - self.start));
        let copied = run(copy);
        let read = copied.and_then(|_| {
            let mut replay = Command::new("e2fsck");
            // its exit code tells of what it mended
            replay
                .args(["-y", "-E", "journal_only"])
                .arg(scratch)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            replay.status().context("starting e2fsck (package e2fsprogs)")?;
            cat(&scratch.display().to_string(), path)
        });
        let _ = std::fs::remove_file(scratch);
        read
    }

    /// Where a file's bytes are on the whole disk.
    pub(super) fn places(&self, path: &str) -> Result<Vec<Range<u64>>> {
        let text = debugfs(&self.name, &format!("blocks {path}"))?;
        let text = String::from_utf8_lossy(&text);
        let numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        Ok(numbers.map(|n| self.start + n * self.block..self.start + (n + 1) * self.block).collect())
    }

    /// Whether this byte lies in a block that no file has now and that holds this content and nothing else: the file was
    /// written anew beside its old self, and the old one's block was not used again.
    pub(super) fn was(&self, at: u64, content: &[u8]) -> Result<bool> {
        let Some(offset) = at.checked_sub(self.start).filter(|_| at < self.end) else { return Ok(false) };
        if self.owner(offset / self.block).is_some() {
            return Ok(false);
        }
        let (disk, _) = self.name.split_once('?').context("a disk's name")?;
        let mut block = vec![0; usize::try_from(self.block)?];
        File::open(disk)?.read_exact_at(&mut block, at - offset % self.block)?;
        let rest = block.strip_prefix(content);
        Ok(!content.is_empty() && rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0)))
    }

    /// The inode that has a block.
    fn owner(&self, block: u64) -> Option<String> {
        let inode = last_word(&self.name, &format!("icheck {block}"));
        inode.filter(|word| word.bytes().all(|c| c.is_ascii_digit()))
    }

    /// Which file a byte of the disk belongs to, in words.
    pub(super) fn whose(&self, at: u64) -> String {
        if !(self.start..self.end).contains(&at) {
            return "outside the data partition".into();
        }
        let block = (at - self.start) / self.block;
        let Some(inode) = self.owner(block) else {
            return format!("block {block} of the data partition, which no file has now");
        };
        match last_word(&self.name, &format!("ncheck {inode}")) {
            Some(path) if path.starts_with('/') => path,
            Some(_) | None => format!("inode {inode} of the data partition (the journal is inode 8)"),
        }
    }
}

fn cat(name: &str, path: &str) -> Result<Vec<u8>> {
    debugfs(name, &format!("cat {path}"))
}

fn last_word(name: &str, request: &str) -> Option<String> {
    let text = debugfs(name, request).ok()?;
    String::from_utf8_lossy(&text).lines().last()?.split_whitespace().last().map(str::to_owned)
}

/// What it says on stdout; that a file is not there is only said on stderr.
fn debugfs(name: &str, request: &str) -> Result<Vec<u8>> {
    let mut command = Command::new("debugfs");
    // -c: a machine whose plug was pulled leaves bitmaps that only its journal makes right; they are not needed here
    command.args(["-c", "-R", request, name]).stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command.output().context("starting debugfs (package e2fsprogs)")?.stdout)
}

/// A partition's bytes, by its name in the primary table (UEFI specification, 5.3).
fn partition(table: &[u8], wanted: &str) -> Option<Range<u64>> {
    let header = table.get(512..)?;
    header.starts_with(b"EFI PART").then_some(())?;
    let entries = table.get(1024..)?.chunks_exact(128);
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(*bytes.first_chunk()?));
    entries.into_iter().find_map(|entry| {
        let units = entry[56..].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        let (first, last) = (number(&entry[32..])?, number(&entry[40..])?);
        let named = String::from_utf16(&name).is_ok_and(|name| name == wanted);
        named.then_some(first.checked_mul(SECTOR)?..last.checked_add(1)?.checked_mul(SECTOR)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_found_by_its_name() {
        let mut table = vec![0; TABLE];
        table[512..520].copy_from_slice(b"EFI PART");
        let entry = &mut table[1024 + 3 * 128..1024 + 4 * 128];
        entry[32..40].copy_from_slice(&2048_u64.to_le_bytes());
        entry[40..48].copy_from_slice(&4095_u64.to_le_bytes());
        for (at, unit) in "muster-data".encode_utf16().enumerate() {
            entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
        assert_eq!(partition(&table, DATA), Some(1_048_576..2_097_152));
        assert_eq!(partition(&table, "muster-root-a"), None);
        assert_eq!(partition(&table[..600], DATA), None);
        assert_eq!(partition(&[0; TABLE], DATA), None);
    }
}
