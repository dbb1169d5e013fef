//! The configuration after every check: nothing in it can be wrong by itself.

use muster_protocol::class::{Class, DmiRule};
use muster_protocol::ids::{Cidr, Mac, NodeName, Role};
use muster_protocol::manifest::{KataRequire, Registration};
use std::net::Ipv4Addr;

/// The smallest disk that is chosen without being named.
pub const MIN_DISK_BYTES: u64 = 24 << 30;
/// What an RTX host is tainted with unless told otherwise.
pub const GPU_TAINT: &str = "nvidia.com/gpu=present:NoSchedule";

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub name: NodeName,
    pub topology: Topology,
    pub provisioner: Provisioner,
    pub network: Network,
    pub k3s: K3s,
    pub kata: Option<Kata>,
    pub authorized_keys: Vec<String>,
    pub hardware: Vec<DmiRule>,
    pub machines: Vec<Machine>,
}

impl Config {
    /// Declared servers, in the file's order: the first one inits.
    pub fn servers(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Server)
    }

    pub fn machine(&self, name: &NodeName) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == *name)
    }
}

/// Closed sets of words of `cluster.toml` that the wire does not need.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),+ }
        impl $name {
            pub const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words!(
    /// How many servers: 3 or 5, or one.
    Topology { Ha = "ha", Single = "single" }
);
words!(
    /// What is done on DHCP's ports.
    Dhcp { Proxy = "proxy", Authoritative = "authoritative", Off = "off" }
);
words!(
    /// When this host's clock may be signed: once the kernel says it is synchronised, or always, because a person says
    /// that it is right.
    Clock { Ntp = "ntp", Local = "local" }
);
words!(
    /// Whether an empty disk is ordered at admission.
    Install { Auto = "auto", Manual = "manual" }
);
words!(
    /// Whose operating system the machine runs.
    Os { Muster = "muster", Keep = "keep" }
);
words!(
    /// Firmware that needs an answer out of the ordinary (docs/boot.md).
    Quirk { PxeBypass = "pxe-bypass" }
);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioner {
    pub interface: String,
    pub dhcp: Dhcp,
    /// Whom to become after the ports are open; `None` stays who it is and keeps only the right to bind low ports.
    pub user: Option<String>,
    pub api_port: u16,
    pub clock: Clock,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct K3s {
    pub version: String,
    pub registration: Registration,
    /// k3s config key and its values, sorted by key.
    pub extra: Vec<(String, Vec<String>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kata {
    pub version: String,
    pub require: KataRequire,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub name: NodeName,
    pub class: Class,
    pub role: Role,
    pub macs: Vec<Mac>,
    pub serial: Option<String>,
    /// Servers always have one.
    pub address: Option<Cidr>,
    pub disk: DiskRule,
    pub install: Install,
    pub os: Os,
    pub sandbox: bool,
    pub labels: Vec<(String, String)>,
    pub taints: Vec<String>,
    pub quirks: Vec<Quirk>,
}

/// Which disk is the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskRule {
    /// The only fixed disk of at least 24 GiB, else refused.
    Only,
    Smallest,
    Largest,
    Serial(String),
    Wwn(String),
    /// The only one on this bus.
    Bus(DiskBus),
}

words!(
    /// Buses a fixed disk hangs on.
    DiskBus { Nvme = "nvme", Sata = "sata", Virtio = "virtio", Mmc = "mmc" }
);
