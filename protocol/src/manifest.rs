//! The signed statement of what one node is to be. There is no secret in it: anyone on the LAN may read it.

use crate::class::Class;
use crate::ids::{Cidr, Digest, Mac, NodeName, Number, Role};
use crate::keys::Fingerprint;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub number: Number,
    pub node: NodeName,
    pub key: Fingerprint,
    pub class: Class,
    pub role: Role,
    pub cluster_name: String,
    pub network: Network,
    pub k3s: K3s,
    /// `None`: not for this role.
    pub kata: Option<Kata>,
    pub labels: Vec<(String, String)>,
    pub taints: Vec<String>,
    pub authorized_keys: Vec<String>,
    /// Unix seconds until which it may be accepted; an accepted one stays in force.
    pub expires_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub macs: Vec<Mac>,
    /// `None`: DHCP.
    pub address: Option<Cidr>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3s {
    pub version: String,
    pub files: Vec<PlacedFile>,
    /// Every server that is declared, in order: hosts entries, and who may hold the data.
    pub servers: Vec<(NodeName, Ipv4Addr)>,
    pub registration: Registration,
    /// Equal on all servers (k3s's CriticalControlArgs and `[k3s.extra]`): config key and its values.
    pub shared: Vec<(String, Vec<String>)>,
    /// What runs is not the real thing, in words; shown wherever a version is shown.
    pub stand_in: Option<String>,
}

/// A file of k3s, placed below `/var/lib/muster/k3s/<version>/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    /// Relative, without `..`; checked again by who places it.
    pub path: String,
    pub mode: u32,
    pub digest: Digest,
    pub bytes: u64,
}

/// How workers find the servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    /// `/etc/hosts` with one name for all servers.
    Hosts,
    Dns(String),
    Vip(Ipv4Addr),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kata {
    pub version: String,
    /// A tar.zst whose root holds `opt/kata`.
    pub archive: Digest,
    pub archive_bytes: u64,
    pub require: KataRequire,
    pub stand_in: Option<String>,
}

crate::ids::words!(
    /// What must be there before a sandbox node counts as ready.
    KataRequire { Kvm = "kvm", Files = "files" }
);

impl Versioned for Manifest {
    const VERSION: u8 = 1;
}

impl Statement for Manifest {
    const KIND: Kind = Kind::Manifest;
    fn audience(&self) -> Option<(&NodeName, Fingerprint)> {
        Some((&self.node, self.key))
    }
    fn class(&self) -> Option<Class> {
        Some(self.class)
    }
    fn number(&self) -> Option<Number> {
        Some(self.number)
    }
    fn expires_at(&self) -> Option<u64> {
        Some(self.expires_at)
    }
}
