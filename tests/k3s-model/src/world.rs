//! Servers with disks and processes, the links between them, and time: a small discrete-event world for simulations.
//!
//! The caller plays the service manager: a process that ends is reported by an `Event::Exited` and stays down until `start`, so
//! that a gate can stand before every start. Nothing here restarts or repairs anything by itself, except what k3s itself does.

mod members;
mod processes;
mod verbs;
mod views;

use crate::cluster::{EtcdModel, Member};
use crate::config::Config;
use crate::ids::{CaHash, MemberId};
use crate::numbers::Numbers;
use crate::start::{DiskFacts, Start};
use alloc::{string::String, vec::Vec};

pub use verbs::{ActionRefused, Deleted};
pub use views::{Health, ListRefused, Status};

/// A handle to one server: its position in the list given to `World::new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server(pub usize);

/// What happened, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Started {
        at: u64,
        server: Server,
        as_what: Start,
    },
    /// A cluster was made: the one that should exist, or the one that should not.
    Founded {
        at: u64,
        server: Server,
        ca: CaHash,
    },
    Added {
        at: u64,
        server: Server,
        id: MemberId,
    },
    Promoted {
        at: u64,
        member: Member,
    },
    Evicted {
        at: u64,
        member: Member,
    },
    Ready {
        at: u64,
        server: Server,
    },
    /// The process ended by itself with this last line.
    Exited {
        at: u64,
        server: Server,
        text: String,
    },
    /// Started with the data of a member that was removed meanwhile: the process stays, without health.
    Lingers {
        at: u64,
        server: Server,
    },
}

/// All servers, all clusters that were ever made, and the time.
#[derive(Clone, Debug)]
pub struct World {
    pub numbers: Numbers,
    /// Test switch: deleting a Node reports success and removes no member (k3s#12908).
    pub delete_node_misses: bool,
    now: u64,
    luck: Luck,
    servers: Vec<Machine>,
    clusters: Vec<Cluster>,
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Machine {
    name: String,
    address: String,
    disk: Disk,
    process: Process,
    config: Config,
    /// Machines of the same island reach each other.
    island: usize,
    island_since: u64,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    wal: Wal,
    tombstone: bool,
    name: Option<String>,
    /// server/tls: what /cacerts serves.
    ca: Option<CaHash>,
    /// state.db, with the CA that was made with it.
    sqlite: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Wal {
    #[default]
    None,
    /// A half wipe.
    EmptyDir,
    Of {
        cluster: usize,
        id: MemberId,
    },
}

#[derive(Clone, Debug)]
enum Process {
    Down,
    Booting { due: u64, what: Start },
    Joining(Joining),
    Etcd(Run),
    Sqlite,
    Lingering,
}

#[derive(Clone, Debug)]
struct Joining {
    cluster: usize,
    via: usize,
    next_try: u64,
    kubelet_due: Option<u64>,
    /// Added or adopted; etcd starts then.
    added: Option<(MemberId, u64)>,
    waiting: String,
}

#[derive(Clone, Debug)]
struct Run {
    cluster: usize,
    id: MemberId,
    since: u64,
    /// This process has seen itself in the list.
    listed: bool,
    removed_seen: Option<u64>,
    quorum_since: Option<u64>,
    quorum_lost: Option<u64>,
    ready: bool,
}

#[derive(Clone, Debug)]
struct Cluster {
    etcd: EtcdModel,
    /// Since when a leader could be elected.
    electable_since: Option<u64>,
}

/// SplitMix64: the caller's seed is the only luck there is.
#[derive(Clone, Debug)]
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl World {
    /// Machines with empty disks, all reaching each other, nothing running.
    pub fn new(numbers: Numbers, seed: u64, machines: &[(&str, &str)]) -> Self {
        let servers = machines
            .iter()
            .map(|(name, address)| Machine {
                name: String::from(*name),
                address: String::from(*address),
                disk: Disk::default(),
                process: Process::Down,
                config: Config::default(),
                island: 0,
                island_since: 0,
            })
            .collect();
        Self {
            numbers,
            delete_node_misses: false,
            now: 0,
            luck: Luck(seed),
            servers,
            clusters: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn servers(&self) -> impl Iterator<Item = Server> + use<> {
        (0..self.servers.len()).map(Server)
    }

    pub fn name(&self, s: Server) -> &str {
        &self.servers[s.0].name
    }

    pub fn address(&self, s: Server) -> &str {
        &self.servers[s.0].address
    }

    /// What `decide_start` looks at.
    pub fn disk(&self, s: Server) -> DiskFacts {
        let disk = &self.servers[s.0].disk;
        DiskFacts {
            wal_dir: disk.wal != Wal::None,
            wal_empty: disk.wal == Wal::EmptyDir,
            tombstone: disk.tombstone,
            state_db: disk.sqlite,
            name_file: disk.name.clone(),
        }
    }

    /// Let time pass until `now`; what happened since the last call comes back in order.
    pub fn tick(&mut self, now: u64) -> Vec<Event> {
        self.advance(now);
        core::mem::take(&mut self.events)
    }

    fn advance(&mut self, now: u64) {
        while self.now < now {
            self.now = (self.now + self.numbers.step).min(now);
            for at in 0..self.servers.len() {
                self.step_process(at);
            }
            for at in 0..self.clusters.len() {
                self.step_cluster(at);
            }
        }
    }
}

fn peer_url(address: &str) -> String {
    alloc::format!("https://{address}:2380")
}
