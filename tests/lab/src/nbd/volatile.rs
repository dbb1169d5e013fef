//! A disk with a volatile write cache: what was written is readable at once and durable only after a flush or with FUA.
//!
//! At a power cut each unflushed write is kept, lost, or torn sector by sector, in the order in which it came. Memory is
//! bounded like a real drive's cache: above `limit` the *oldest* writes go to the medium by themselves, which a drive may
//! always do; the limit is far above what an install leaves unflushed. No I/O but through `Medium`, no clock, luck is an argument.

use crate::luck::Luck;
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// The unit in which a real disk is atomic.
pub const SECTOR: u64 = 512;

/// What survives a power cut. All positions are inside the size that `Volatile` was made with.
pub trait Medium {
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()>;
    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()>;
    fn zero_at(&mut self, at: u64, length: u64) -> io::Result<()>;
}

#[derive(Debug)]
pub struct Volatile<M> {
    medium: M,
    size: u64,
    limit: u64,
    /// Unflushed writes in order of arrival; the first has the number `first`.
    log: VecDeque<Write>,
    first: u64,
    /// Where the newest unflushed bytes are: start -> (end, number of the write). Covers the union of the log.
    newest: BTreeMap<u64, Extent>,
    held: u64,
}

#[derive(Debug)]
struct Write {
    at: u64,
    what: What,
    /// Written with FUA over older unflushed bytes: already on the medium, and on top of them after every replay.
    durable: bool,
}

#[derive(Debug)]
enum What {
    Data(Vec<u8>),
    /// TRIM and WRITE_ZEROES; a trimmed range of this disk reads as zeros.
    Zeros(u64),
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    end: u64,
    write: u64,
}

/// What a power cut did to the writes that no flush had covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    pub unflushed: usize,
    pub kept: usize,
    pub torn: usize,
    pub lost: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not whole sectors.
    Unaligned,
    /// Behind the end of the disk.
    OutOfRange,
}

impl<M: Medium> Volatile<M> {
    pub fn new(medium: M, size: u64, limit: u64) -> Self {
        Self { medium, size, limit, log: VecDeque::new(), first: 0, newest: BTreeMap::new(), held: 0 }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of memory that unflushed writes take now.
    pub fn held(&self) -> u64 {
        self.held
    }

    pub fn check(&self, at: u64, length: u64) -> Result<(), Refusal> {
        if !at.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
            return Err(Refusal::Unaligned);
        }
        match at.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            Some(_) | None => Err(Refusal::OutOfRange),
        }
    }

    pub fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.medium.read_at(at, into)?;
        let end = at + into.len() as u64;
        let before = self.newest.range(..=at).next_back().map(|(&start, _)| start);
        for (&start, extent) in self.newest.range(before.unwrap_or(at)..end) {
            let (from, to) = (start.max(at), extent.end.min(end));
            if from >= to {
                continue;
            }
            let place = &mut into[(from - at) as usize..(to - at) as usize];
            let write = &self.log[(extent.write - self.first) as usize];
            match &write.what {
                What::Data(data) => {
                    place.copy_from_slice(&data[(from - write.at) as usize..(to - write.at) as usize])
                }
                What::Zeros(_) => place.fill(0),
            }
        }
        Ok(())
    }

    pub fn write(&mut self, at: u64, data: Vec<u8>, fua: bool) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        if fua {
            self.medium.write_at(at, &data)?;
            if !self.overlaps(at, at + length) {
                return Ok(());
            }
        }
        self.held += length;
        self.keep(Write { at, what: What::Data(data), durable: fua }, length)
    }

    /// TRIM and WRITE_ZEROES.
    pub fn zero(&mut self, at: u64, length: u64, fua: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        if fua {
            self.medium.zero_at(at, length)?;
            if !self.overlaps(at, at + length) {
                return Ok(());
            }
        }
        self.keep(Write { at, what: What::Zeros(length), durable: fua }, length)
    }

    /// Everything that was answered before this is durable after it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_back(0)
    }

    /// The power fails: each unflushed write is kept, lost or torn, independently and in order.
    pub fn cut(&mut self, luck: &mut Luck) -> io::Result<Cut> {
        let mut cut = Cut::default();
        let log = std::mem::take(&mut self.log);
        self.first += log.len() as u64;
        self.newest.clear();
        self.held = 0;
        for write in log {
            if write.durable {
                write.apply(&mut self.medium)?;
                continue;
            }
            cut.unflushed += 1;
            match luck.below(3) {
                0 => cut.lost += 1,
                1 => {
                    cut.kept += 1;
                    write.apply(&mut self.medium)?;
                }
                _ => {
                    cut.torn += 1;
                    write.tear(&mut self.medium, luck)?;
                }
            }
        }
        Ok(cut)
    }

    fn overlaps(&self, from: u64, to: u64) -> bool {
        self.newest.range(..to).next_back().is_some_and(|(_, extent)| extent.end > from)
    }

    fn keep(&mut self, write: Write, length: u64) -> io::Result<()> {
        let number = self.first + self.log.len() as u64;
        self.cover(write.at, write.at + length, number);
        self.log.push_back(write);
        if self.held > self.limit { self.write_back(self.limit / 2) } else { Ok(()) }
    }

    /// Makes `write` the newest of a range, and cuts back what was newest there.
    fn cover(&mut self, from: u64, to: u64, write: u64) {
        if let Some((_, before)) = self.newest.range_mut(..from).next_back()
            && before.end > from
        {
            let rest = *before;
            before.end = from;
            if rest.end > to {
                self.newest.insert(to, rest);
            }
        }
        while let Some((&start, &extent)) = self.newest.range(from..to).next() {
            self.newest.remove(&start);
            if extent.end > to {
                self.newest.insert(to, extent);
            }
        }
        self.newest.insert(from, Extent { end: to, write });
    }

    /// Moves the oldest writes to the medium until at most `target` bytes are held; all of them when that is 0.
    fn write_back(&mut self, target: u64) -> io::Result<()> {
        while self.held > target || target == 0 {
            let Some(write) = self.log.front() else { break };
            write.apply(&mut self.medium)?;
            self.held -= write.held();
            self.log.pop_front();
            self.first += 1;
        }
        let first = self.first;
        self.newest.retain(|_, extent| extent.write >= first);
        Ok(())
    }
}

impl Write {
    fn held(&self) -> u64 {
        match &self.what {
            What::Data(data) => data.len() as u64,
            What::Zeros(_) => 0,
        }
    }

    fn apply(&self, medium: &mut impl Medium) -> io::Result<()> {
        match &self.what {
            What::Data(data) => medium.write_at(self.at, data),
            What::Zeros(length) => medium.zero_at(self.at, *length),
        }
    }

    /// Some sectors arrive, some do not. A wide TRIM is torn in at most 64 pieces: sector by sector it would take minutes.
    fn tear(&self, medium: &mut impl Medium, luck: &mut Luck) -> io::Result<()> {
        match &self.what {
            What::Data(data) => {
                for (index, sector) in data.chunks(SECTOR as usize).enumerate() {
                    if luck.below(2) == 0 {
                        medium.write_at(self.at + index as u64 * SECTOR, sector)?;
                    }
                }
            }
            What::Zeros(length) => {
                let piece = (length / SECTOR).div_ceil(64).max(1) * SECTOR;
                let mut done = 0;
                while done < *length {
                    let part = piece.min(length - done);
                    if luck.below(2) == 0 {
                        medium.zero_at(self.at + done, part)?;
                    }
                    done += part;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SECTORS: u64 = 24;

    impl Medium for Vec<u8> {
        fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
            into.copy_from_slice(&self[at as usize..][..into.len()]);
            Ok(())
        }

        fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
            self[at as usize..][..data.len()].copy_from_slice(data);
            Ok(())
        }

        fn zero_at(&mut self, at: u64, length: u64) -> io::Result<()> {
            self[at as usize..][..length as usize].fill(0);
            Ok(())
        }
    }

    pub(crate) fn disk(limit: u64) -> Volatile<Vec<u8>> {
        Volatile::new(vec![0; (SECTORS * SECTOR) as usize], SECTORS * SECTOR, limit)
    }

    pub(crate) fn sector(disk: &mut Volatile<Vec<u8>>, index: u64) -> u8 {
        let mut out = [0; SECTOR as usize];
        disk.read(index * SECTOR, &mut out).unwrap();
        out[0]
    }

    #[test]
    fn an_unflushed_write_is_readable_but_not_on_the_medium() {
        let mut disk = disk(1 << 20);
        disk.write(0, vec![7; 1024], false).unwrap();
        assert_eq!(sector(&mut disk, 1), 7);
        assert_eq!(disk.medium[512], 0);
        disk.flush().unwrap();
        assert_eq!(disk.medium[512], 7);
        assert_eq!(disk.held(), 0);
    }

    #[test]
    fn a_fua_write_survives_every_cut_even_above_an_older_unflushed_one() {
        for seed in 0..64 {
            let mut disk = disk(1 << 20);
            disk.write(0, vec![1; 2048], false).unwrap();
            disk.write(512, vec![2; 512], true).unwrap();
            disk.cut(&mut Luck::new(seed)).unwrap();
            assert_eq!(disk.medium[512], 2, "seed {seed}");
        }
    }

    #[test]
    fn cuts_keep_lose_and_tear() {
        let mut total = Cut::default();
        for seed in 0..32 {
            let mut disk = disk(1 << 20);
            for _ in 0..4 {
                disk.write(0, vec![1; 4096], false).unwrap();
            }
            let cut = disk.cut(&mut Luck::new(seed)).unwrap();
            assert_eq!(cut.unflushed, cut.kept + cut.torn + cut.lost);
            total.kept += cut.kept;
            total.torn += cut.torn;
            total.lost += cut.lost;
        }
        assert!(total.kept > 20 && total.torn > 20 && total.lost > 20, "{total:?}");
    }

    #[test]
    fn above_the_limit_the_oldest_writes_go_first() {
        let mut disk = disk(4096);
        for index in 0..SECTORS {
            disk.write(index * SECTOR, vec![index as u8 + 1; 512], false).unwrap();
        }
        assert!(disk.held() <= 4096);
        assert_eq!(disk.medium[0], 1);
        assert_eq!(*disk.medium.last().unwrap(), 0);
        assert_eq!(sector(&mut disk, SECTORS - 1), SECTORS as u8);
    }

    #[test]
    fn half_sectors_and_the_space_behind_the_end_are_refused() {
        let disk = disk(1);
        assert_eq!(disk.check(0, 100), Err(Refusal::Unaligned));
        assert_eq!(disk.check(SECTORS * SECTOR, 512), Err(Refusal::OutOfRange));
        assert_eq!(disk.check(u64::MAX - 511, 512), Err(Refusal::OutOfRange));
        assert_eq!(disk.check(0, SECTORS * SECTOR), Ok(()));
    }
}
