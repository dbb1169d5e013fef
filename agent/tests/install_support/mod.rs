//! A provisioner, a firmware and a machine, all doubles in memory, around the real installer.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this")]

pub mod disk;

use disk::{Luck, MemoryDisk};
use muster_agent::install::bootentry::Variables;
use muster_agent::install::choose::Candidate;
use muster_agent::install::disk::Disk;
use muster_agent::install::failed::Failed;
use muster_agent::install::fetch::{FetchError, Source};
use muster_agent::install::mkdata::{self, DataError};
use muster_agent::install::plan::{Part, Plan, Sizes, plan};
use muster_agent::install::run::{Env, Event, Job, run};
use muster_agent::install::seed::{Content, Seed};
use muster_protocol::class::Class;
use muster_protocol::ids::{Arch, ClusterId, Digest, Number, Role};
use muster_protocol::image::{Frame, ImageIndex, Stored};
use muster_protocol::inventory::{self, Bus, DiskId};
use muster_protocol::keys::SecretKey;
use muster_protocol::manifest::{K3s, Manifest, Network, Registration};
use muster_protocol::order::{Order, Wipe};
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Delegation, Listener, OnlineKey, Signed, Trust, Verified};
use muster_protocol::sync::{Claim, ClaimAnswer};
use muster_protocol::wire;
use std::collections::BTreeMap;
use std::io;

pub const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub const MIB: u64 = 1 << 20;

/// As small as a layout can be that is still a real one: FAT32 alone needs 33 MiB.
pub const SMALL: Sizes =
    Sizes { esp: 34 * MIB, slot: MIB, data_min: MIB, edge: 64 << 10, samples: 16, frame: 64 << 10 };
pub const DISK_BYTES: u64 = 42 * MIB;
/// With 4 KiB blocks FAT32 needs 257 MiB.
pub const SMALL_4KN: Sizes = Sizes { esp: 264 * MIB, ..SMALL };
pub const DISK_BYTES_4KN: u64 = 272 * MIB;

/// Everything that a cluster has signed and published for one node.
pub struct World {
    pub trust: Trust,
    pub online: OnlineKey,
    pub key: SecretKey,
    pub artifacts: BTreeMap<Digest, Vec<u8>>,
    pub image: Vec<u8>,
    pub order: Order,
    pub sizes: Sizes,
}

impl World {
    pub fn new() -> Self {
        Self::with_image(&image(10 * SMALL.frame as usize + 8192), SMALL.frame)
    }

    pub fn for_blocks_of(block_bytes: u32) -> Self {
        let mut world = Self::new();
        if block_bytes == 4096 {
            world.sizes = SMALL_4KN;
            world.order.disk.size_bytes = DISK_BYTES_4KN;
        }
        world
    }

    pub fn with_image(raw: &[u8], frame: u64) -> Self {
        let root = SecretKey::from_seed([1; 32]);
        let secret = SecretKey::from_seed([2; 32]);
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let online = OnlineKey { delegation: Signed::by_key(CLUSTER, &root, &delegation), secret, number: 1 };
        let trust = Trust {
            cluster: CLUSTER,
            cluster_name: "test".into(),
            root: root.public().verify,
            build_epoch: 1_700_000_000,
        };
        let key = SecretKey::from_seed([3; 32]);
        let (index, blob) = pack(raw, frame);
        let (loader, uki) = (noise(10_000, 7), noise(100_001, 8));
        let order = Order {
            number: number(5),
            node: "mini-pc-1".parse().unwrap(),
            key: key.public().fingerprint(),
            class: Class::MiniPc,
            disk: disk_id(DISK_BYTES),
            wipe: Wipe::OnlyEmpty,
            image: Digest::of(&index),
            uki: Digest::of(&uki),
            uki_bytes: uki.len() as u64,
            loader: Digest::of(&loader),
            loader_bytes: loader.len() as u64,
            expires_at: 1_800_000_000,
        };
        let artifacts = [index, blob, loader, uki].map(|bytes| (Digest::of(&bytes), bytes)).into();
        Self { trust, online, key, artifacts, image: raw.to_vec(), order, sizes: SMALL }
    }

    pub fn order(&self) -> Verified<Order> {
        self.verified(&self.order)
    }

    pub fn verified(&self, order: &Order) -> Verified<Order> {
        Signed::by_online(CLUSTER, &self.online, order)
            .verify(By::Online(&self.trust), &Listener::default())
            .unwrap()
    }

    pub fn held(&self) -> ClaimAnswer {
        let manifest = Manifest {
            number: number(4),
            node: self.order.node.clone(),
            key: self.order.key,
            class: self.order.class,
            role: Role::Server,
            cluster_name: "test".into(),
            network: Network { macs: vec![], address: None, gateway: None, dns: vec![], ntp: vec![] },
            k3s: K3s {
                version: "v0".into(),
                files: vec![],
                servers: vec![],
                registration: Registration::Hosts,
                shared: vec![],
                stand_in: None,
            },
            kata: None,
            labels: vec![],
            taints: vec![],
            authorized_keys: vec!["ssh-ed25519 AAAA operator".into()],
            expires_at: 1_800_000_000,
        };
        let recovery = SecretKey::from_seed([4; 32]).public();
        let roster = Roster { version: number(3), operators: vec![], nodes: vec![], recovery };
        ClaimAnswer::Held {
            manifest: Signed::by_online(CLUSTER, &self.online, &manifest),
            roster: Signed::by_online(CLUSTER, &self.online, &roster),
        }
    }

    pub fn plan(&self, block_bytes: u32) -> Plan {
        plan(self.order.disk.size_bytes, block_bytes, &self.sizes, CLUSTER, self.order.number).unwrap()
    }
}

pub fn number(n: u64) -> Number {
    Number { delegation: 1, generation: 0, n }
}

pub fn disk_id(size_bytes: u64) -> DiskId {
    DiskId { wwn: Some("eui.0011223344556677".into()), serial: Some("S1".into()), size_bytes }
}

/// A disk as detection shows it; tests change one fact.
pub fn candidate(name: &str, id: DiskId) -> Candidate {
    let disk = inventory::Disk {
        name: name.into(),
        id,
        model: Some("Test".into()),
        bus: Bus::Nvme,
        removable: false,
        rotational: false,
        logical_block_bytes: 512,
        contents: None,
    };
    Candidate { disk, in_use: vec![] }
}

pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut luck = Luck(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&luck.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Text-like data with a hole of zeros, so that frames of all kinds occur.
pub fn image(length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = noise(length, 11).iter().map(|byte| b'a' + byte % 16).collect();
    let (from, to) = (length / 3, length * 2 / 3);
    bytes[from..to].fill(0);
    bytes
}

/// Table and blob, as the provisioner's packer makes them.
pub fn pack(raw: &[u8], frame: u64) -> (Vec<u8>, Vec<u8>) {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let mut blob = Vec::new();
    let mut frames = Vec::new();
    for piece in raw.chunks(frame as usize) {
        let stored = if piece.iter().all(|byte| *byte == 0) {
            Stored::Zero
        } else {
            let packed = compress_to_vec(piece, CompressionLevel::Fastest);
            let stored = Stored::Zstd { offset: blob.len() as u64, bytes: packed.len() as u32 };
            blob.extend_from_slice(&packed);
            stored
        };
        frames.push(Frame { raw: Digest::of(piece), stored });
    }
    let index = ImageIndex {
        arch: Arch::X86_64,
        version: "test".into(),
        kernel_release: "6.12.48+deb13-amd64".into(),
        raw_bytes: raw.len() as u64,
        blob: Digest::of(&blob),
        blob_bytes: blob.len() as u64,
        frames,
    };
    (wire::encode(&index), blob)
}

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
