//! A disk in memory that forgets at a power cut what was not flushed: all of it, none of it, or any part.

use muster_agent::install::disk::Disk;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

const BLOCK: usize = 4096;
pub type Blocks = BTreeMap<u64, Arc<[u8; BLOCK]>>;

/// What a cut leaves of the writes since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Everything,
    /// Each whole write by luck.
    Some,
    /// Each piece of this many bytes of each write by luck.
    Torn(usize),
}

/// The medium and its cache; [`MemoryDisk`] is a handle on it, so that a machine can start again with the same disk.
#[derive(Debug, Default)]
pub struct Medium {
    size: u64,
    block_bytes: u32,
    durable: Blocks,
    /// Durable plus everything written since.
    seen: Blocks,
    unflushed: Vec<(u64, Vec<u8>)>,
    /// Writes and flushes so far, in this power-on.
    pub operations: u64,
    pub writes: u64,
    /// The operation at which power goes; it and everything after it fails.
    pub cut_at: Option<u64>,
    /// The operation that fails once with EIO.
    pub fail_at: Option<u64>,
    pub dark: bool,
}

#[derive(Clone)]
pub struct MemoryDisk(pub Arc<Mutex<Medium>>);

impl MemoryDisk {
    pub fn new(size: u64, block_bytes: u32) -> Self {
        Self(Arc::new(Mutex::new(Medium { size, block_bytes, ..Medium::default() })))
    }

    /// A disk of its own with the same durable bytes.
    pub fn copy(&self) -> Self {
        let medium = self.0.lock().unwrap();
        Self(Arc::new(Mutex::new(Medium {
            size: medium.size,
            block_bytes: medium.block_bytes,
            durable: medium.durable.clone(),
            seen: medium.durable.clone(),
            ..Medium::default()
        })))
    }

    /// Power on again after a cut: what was not flushed is kept or lost by `kept` and `luck`.
    pub fn power_on(&self, kept: Kept, luck: &mut Luck) {
        let mut medium = self.0.lock().unwrap();
        for (at, bytes) in std::mem::take(&mut medium.unflushed) {
            let grain = match kept {
                Kept::Nothing => continue,
                Kept::Everything => bytes.len(),
                Kept::Some if luck.coin() => bytes.len(),
                Kept::Some => continue,
                Kept::Torn(grain) => grain,
            };
            for (number, piece) in bytes.chunks(grain).enumerate() {
                if !matches!(kept, Kept::Torn(_)) || luck.coin() {
                    put(&mut medium.durable, at + (number * grain) as u64, piece);
                }
            }
        }
        medium.seen = medium.durable.clone();
        medium.operations = 0;
        medium.writes = 0;
        medium.cut_at = None;
        medium.fail_at = None;
        medium.dark = false;
    }

    /// Bytes as a test puts them there before the story begins.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let mut medium = self.0.lock().unwrap();
        put(&mut medium.durable, at, bytes);
        put(&mut medium.seen, at, bytes);
    }

    pub fn get(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        get(&self.0.lock().unwrap().seen, at, &mut bytes);
        bytes
    }

    /// Every block that is not zero, but for those of the given range: equal disks have equal contents.
    pub fn contents(&self, without: std::ops::Range<u64>) -> Blocks {
        let medium = self.0.lock().unwrap();
        let outside = |number: &u64| !without.contains(&(number * BLOCK as u64));
        medium
            .durable
            .iter()
            .filter(|(number, _)| outside(number))
            .map(|(number, block)| (*number, block.clone()))
            .collect()
    }

    /// The blocks of a range that are not zero.
    pub fn within(&self, range: std::ops::Range<u64>) -> Blocks {
        let blocks = range.start / BLOCK as u64..range.end / BLOCK as u64;
        let medium = self.0.lock().unwrap();
        medium.durable.range(blocks).map(|(number, block)| (*number, block.clone())).collect()
    }

    /// One more operation; variables of the firmware count too.
    pub fn operate(&self) -> io::Result<()> {
        self.0.lock().unwrap().operate()
    }
}

impl Medium {
    fn operate(&mut self) -> io::Result<()> {
        let now = self.operations;
        self.operations += 1;
        self.dark |= self.cut_at == Some(now);
        if self.dark {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "power is gone"));
        }
        if self.fail_at == Some(now) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn inside(&self, offset: u64, length: usize) -> io::Result<()> {
        let block = u64::from(self.block_bytes);
        assert!(
            offset.is_multiple_of(block) && (length as u64).is_multiple_of(block),
            "unaligned: {length} at {offset}"
        );
        if offset + length as u64 > self.size {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().size
    }

    fn block_bytes(&self) -> u32 {
        self.0.lock().unwrap().block_bytes
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let medium = self.0.lock().unwrap();
        medium.inside(offset, into.len())?;
        if medium.dark {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "power is gone"));
        }
        get(&medium.seen, offset, into);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.0.lock().unwrap();
        medium.inside(offset, bytes.len())?;
        let was_dark = medium.dark;
        let operated = medium.operate();
        medium.writes += 1;
        if !was_dark {
            // The write during which power goes may be on the medium too, whole or in part.
            medium.unflushed.push((offset, bytes.to_vec()));
        }
        operated?;
        put(&mut medium.seen, offset, bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut medium = self.0.lock().unwrap();
        medium.operate()?;
        for (at, bytes) in std::mem::take(&mut medium.unflushed) {
            put(&mut medium.durable, at, &bytes);
        }
        Ok(())
    }
}

fn put(blocks: &mut Blocks, at: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let place = at + done as u64;
        let (number, within) = (place / BLOCK as u64, (place % BLOCK as u64) as usize);
        let length = (BLOCK - within).min(bytes.len() - done);
        let piece = &bytes[done..done + length];
        done += length;
        if length == BLOCK {
            if *piece == [0; BLOCK] {
                blocks.remove(&number);
            } else {
                let mut block = [0; BLOCK];
                block.copy_from_slice(piece);
                blocks.insert(number, Arc::new(block));
            }
            continue;
        }
        let mut block = blocks.get(&number).map_or([0; BLOCK], |block| **block);
        block[within..within + length].copy_from_slice(piece);
        if block == [0; BLOCK] {
            blocks.remove(&number);
        } else {
            blocks.insert(number, Arc::new(block));
        }
    }
}

fn get(blocks: &Blocks, at: u64, into: &mut [u8]) {
    let mut done = 0;
    while done < into.len() {
        let place = at + done as u64;
        let (number, within) = (place / BLOCK as u64, (place % BLOCK as u64) as usize);
        let length = (BLOCK - within).min(into.len() - done);
        match blocks.get(&number) {
            Some(block) => into[done..done + length].copy_from_slice(&block[within..within + length]),
            None => into[done..done + length].fill(0),
        }
        done += length;
    }
}

/// splitmix64: the same seed tells the same story again.
pub struct Luck(pub u64);

impl Luck {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
