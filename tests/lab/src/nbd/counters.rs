//! What a disk was asked to do, readable while it runs: a test can say "not one write before the order".

use crate::locked;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Partitions begin and end at multiples of this.
const MIB: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) fua_writes: AtomicU64,
    pub(crate) trims: AtomicU64,
    pub(crate) write_zeroes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    /// Changes by the MiB that they touched.
    places: Mutex<BTreeMap<u64, u64>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub reads: u64,
    /// All writes with data, the FUA ones included.
    pub writes: u64,
    pub fua_writes: u64,
    pub trims: u64,
    pub write_zeroes: u64,
    pub flushes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// A write, trim or write of zeros was taken here.
    pub(crate) fn changed(&self, at: u64, length: u64) {
        let mut places = locked(&self.places);
        for place in at / MIB..at.saturating_add(length).div_ceil(MIB) {
            *places.entry(place).or_default() += 1;
        }
    }

    pub(crate) fn changes_in(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        locked(&self.places).range(range.start / MIB..range.end.div_ceil(MIB)).map(|(_, count)| count).sum()
    }

    pub(crate) fn now(&self) -> Asked {
        Asked {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            fua_writes: self.fua_writes.load(Relaxed),
            trims: self.trims.load(Relaxed),
            write_zeroes: self.write_zeroes.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
        }
    }
}

impl Asked {
    /// Anything that could have changed the disk.
    pub fn changes(&self) -> u64 {
        self.writes + self.trims + self.write_zeroes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_where_they_were_made() {
        let counters = Counters::default();
        counters.changed(2 * MIB, 512);
        counters.changed(5 * MIB - 512, 1024);
        let counts = [0..2 * MIB, 2 * MIB..3 * MIB, 4 * MIB..5 * MIB, 5 * MIB..9 * MIB, 0..9 * MIB, MIB..MIB];
        assert_eq!(counts.map(|range| counters.changes_in(range)), [0, 1, 1, 1, 3, 0]);
    }
}
