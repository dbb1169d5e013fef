//! A provisioner, a firmware and a machine, all doubles in memory, around the real installer.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this")]

pub mod disk;
/// One power-on of the machine.
pub mod lab;

use disk::Luck;
use muster_agent::install::choose::Candidate;
use muster_agent::install::plan::{Plan, Sizes, plan};
use muster_protocol::class::Class;
use muster_protocol::ids::{Arch, ClusterId, Digest, Number, Role};
use muster_protocol::image::{Frame, ImageIndex, Stored};
use muster_protocol::inventory::{self, Bus, DiskId};
use muster_protocol::keys::SecretKey;
use muster_protocol::manifest::{K3s, Manifest, Network, Registration};
use muster_protocol::order::{Order, Wipe};
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Delegation, Listener, OnlineKey, Signed, Trust, Verified};
use muster_protocol::sync::ClaimAnswer;
use muster_protocol::wire;
use std::collections::BTreeMap;

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
