//! What the installer writes to: four verbs that a real disk and a test's power-cut disk both have.

use std::io;
use std::ops::Range;
use std::path::Path;

/// Offsets and lengths are multiples of [`Disk::block_bytes`]. A write may be lost, or half of it, until a `flush`
/// that follows it has returned.
pub trait Disk: Send {
    fn size(&self) -> u64;
    /// Logical block: 512 or 4096.
    fn block_bytes(&self) -> u32;
    /// What the medium holds, not what a cache remembers.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;

    /// Lets an external program work on the disk by its path; our exclusive hold rests meanwhile.
    fn lend(&mut self, _work: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this disk has no path"))
    }
}

/// Longest single write of zeros, and the grain of evidence.
pub(crate) const CHUNK: u64 = 1 << 20;

/// Zeros over a range.
pub(crate) fn zero(disk: &mut dyn Disk, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(CHUNK.min(range.end - range.start)).unwrap_or(0)];
    let mut at = range.start;
    while at < range.end {
        let length = CHUNK.min(range.end - at);
        disk.write_at(at, &zeros[..usize::try_from(length).unwrap_or(0)])?;
        at += length;
    }
    Ok(())
}

/// A range read into a fresh buffer; for ranges that are known to be small.
pub(crate) fn read(disk: &mut dyn Disk, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.read_at(offset, &mut bytes)?;
    Ok(bytes)
}
