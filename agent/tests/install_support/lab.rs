//! The double of everything around the installer, from the claim to the reboot.

use super::disk::MemoryDisk;
use super::{World, candidate};
use muster_agent::install::bootentry::Variables;
use muster_agent::install::choose::Candidate;
use muster_agent::install::disk::Disk;
use muster_agent::install::failed::Failed;
use muster_agent::install::fetch::{FetchError, Source};
use muster_agent::install::mkdata::{self, DataError};
use muster_agent::install::plan::Part;
use muster_agent::install::run::{Env, Event, Job, run};
use muster_agent::install::seed::{Content, Seed};
use muster_protocol::ids::{Arch, Digest};
use muster_protocol::order::Order;
use muster_protocol::signed::Verified;
use muster_protocol::sync::{Claim, ClaimAnswer};
use std::collections::BTreeMap;
use std::io;

/// What the provisioner remembers of its one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    Open,
    Held,
    Done,
}

/// One power-on of the machine. The double of the whole surroundings; the disk outlives it.
pub struct Lab<'a> {
    pub world: &'a World,
    pub disk: MemoryDisk,
    pub candidates: Vec<Candidate>,
    pub state: OrderState,
    /// What the firmware remembers.
    pub firmware: BTreeMap<String, Vec<u8>>,
    pub has_variables: bool,
    /// The claim is noted, but its answer does not arrive.
    pub lose_claim_answer: bool,
    /// Requests until the provisioner dies; each claim and fetch is one.
    pub requests_left: Option<u64>,
    pub requests: u64,
    pub reboots: u32,
    pub events: Vec<Event>,
    pub workers: usize,
    /// A frame's bytes as a liar on the LAN would send them.
    pub corrupt: Option<Digest>,
}

impl<'a> Lab<'a> {
    pub fn new(world: &'a World, disk: MemoryDisk) -> Self {
        let mut it = candidate("nvme0n1", world.order.disk.clone());
        it.disk.logical_block_bytes = disk.block_bytes();
        Self {
            world,
            disk,
            candidates: vec![it],
            state: OrderState::Open,
            firmware: BTreeMap::from([
                ("BootOrder".into(), vec![1, 0, 0, 0]),
                ("Boot0000".into(), b"\x01\0\0\0\x04\0U\0i\0\0\0\x7f\xff\x04\0".to_vec()),
                ("Boot0001".into(), b"\x01\0\0\0\x04\0P\0X\0E\0\0\0\x7f\xff\x04\0".to_vec()),
            ]),
            has_variables: true,
            lose_claim_answer: false,
            requests_left: None,
            requests: 0,
            reboots: 0,
            events: vec![],
            workers: 2,
            corrupt: None,
        }
    }

    pub fn run(&mut self) -> Result<(), Failed> {
        let order = self.world.order();
        self.run_order(&order)
    }

    pub fn run_order(&mut self, order: &Verified<Order>) -> Result<(), Failed> {
        let world = self.world;
        let job = Job {
            order,
            trust: &world.trust,
            key: &world.key,
            arch: Arch::X86_64,
            sizes: world.sizes,
            workers: self.workers,
            now: Some(1_750_000_000),
        };
        let mut events = std::mem::take(&mut self.events);
        let outcome = run(&job, self, &mut |event| events.push(event));
        self.events = events;
        outcome
    }

    fn request(&mut self) -> bool {
        self.requests += 1;
        match &mut self.requests_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    pub fn writes(&self) -> u64 {
        self.disk.0.lock().unwrap().writes
    }
}

impl Env for Lab<'_> {
    fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, String> {
        assert_eq!(claim.order, self.world.order.number, "only this order was ever made");
        if !self.request() {
            return Err("connection refused".into());
        }
        if self.state == OrderState::Done {
            return Ok(ClaimAnswer::Refused { reason: "the order is done".into() });
        }
        self.state = OrderState::Held;
        if std::mem::take(&mut self.lose_claim_answer) {
            return Err("connection reset".into());
        }
        Ok(self.world.held())
    }

    fn disks(&mut self) -> Vec<Candidate> {
        self.candidates.clone()
    }

    fn open(&mut self, _candidate: &Candidate) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(self.disk.clone()))
    }

    fn source(&mut self) -> &mut dyn Source {
        self
    }

    /// Not ext4: mke2fs is a program of its own. This stand-in has mke2fs's way of writing (old superblock away,
    /// tables, files, superblock last, one sync) and a superblock that the real check accepts.
    fn make_data(&mut self, disk: &mut dyn Disk, part: &Part, seeds: &[Seed]) -> Result<(), DataError> {
        let mut write = |at: u64, bytes: &[u8]| disk.write_at(part.bytes.start + at, bytes);
        let mut steps = || {
            write(0, &[0; 4096])?;
            for (number, seed) in seeds.iter().enumerate() {
                let mut block = format!("{seed:?}\n").into_bytes();
                if let Content::File(bytes) = &seed.what {
                    block.extend_from_slice(bytes);
                }
                block.resize(block.len().next_multiple_of(4096), 0);
                write((1 + number as u64) * 8192, &block)?;
            }
            let mut superblock = [0; 4096];
            superblock[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
            superblock[1024 + 0x3a] = 1;
            superblock[1024 + 0x68..1024 + 0x78].copy_from_slice(&part.guid.big_endian());
            write(0, &superblock)
        };
        steps().and_then(|()| disk.flush()).map_err(DataError::Disk)?;
        mkdata::check(disk, part)
    }

    fn variables(&mut self) -> Option<&mut dyn Variables> {
        if self.has_variables { Some(self) } else { None }
    }

    fn uptime_ms(&self) -> u64 {
        0
    }

    fn reboot(&mut self) -> io::Result<()> {
        self.disk.operate()?;
        self.reboots += 1;
        Ok(())
    }
}

impl Source for Lab<'_> {
    fn part(&mut self, digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), FetchError> {
        if !self.request() {
            let source = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(FetchError::Connection { digest: *digest, source });
        }
        let blob =
            self.world.artifacts.get(digest).ok_or(FetchError::Status { digest: *digest, status: 404 })?;
        into.copy_from_slice(&blob[offset as usize..offset as usize + into.len()]);
        if self.corrupt == Some(*digest) {
            into[into.len() / 2] ^= 0x10;
        }
        Ok(())
    }

    fn whole(&mut self, digest: &Digest, at_most: u64) -> Result<Vec<u8>, FetchError> {
        let length = self.world.artifacts.get(digest).map_or(0, |bytes| bytes.len() as u64);
        if length > at_most {
            return Err(FetchError::TooLong { digest: *digest, have: length, at_most });
        }
        let mut bytes = vec![0; length as usize];
        self.part(digest, 0, &mut bytes)?;
        let have = Digest::of(&bytes);
        if have == *digest { Ok(bytes) } else { Err(FetchError::OtherBytes { digest: *digest, have }) }
    }
}

impl Variables for Lab<'_> {
    fn names(&mut self) -> io::Result<Vec<String>> {
        Ok(self.firmware.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.firmware.get(name).cloned())
    }

    fn write(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        self.disk.operate()?;
        self.firmware.insert(name.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        self.disk.operate()?;
        self.firmware.remove(name);
        Ok(())
    }
}
