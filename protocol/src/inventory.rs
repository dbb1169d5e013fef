//! What detection found on a machine: facts only, no judgement. MAC, serial and UUID are claims, never proofs.

use crate::ids::{Arch, Mac};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub arch: Arch,
    pub dmi: Dmi,
    pub cpu: Cpu,
    pub memory_bytes: u64,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub pci: Vec<PciDevice>,
    pub firmware: Firmware,
    /// `/dev/kvm` can be opened.
    pub kvm: bool,
}

impl Versioned for Inventory {
    const VERSION: u8 = 1;
}

/// `/sys/class/dmi/id`; placeholders such as "Default string" are kept as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dmi {
    pub vendor: Option<String>,
    pub product: Option<String>,
    pub board: Option<String>,
    pub serial: Option<String>,
    pub uuid: Option<String>,
    pub bios_version: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    pub model: String,
    pub threads: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, such as `nvme0n1`: valid for this boot only, never part of an order.
    pub name: String,
    pub id: DiskId,
    pub model: Option<String>,
    pub bus: Bus,
    pub removable: bool,
    pub rotational: bool,
    pub logical_block_bytes: u32,
    /// What the installer saw on it; `None` when it was not looked at.
    pub contents: Option<Contents>,
}

/// What names a disk for good: at least one of `wwn` and `serial`, and the size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskId {
    pub wwn: Option<String>,
    pub serial: Option<String>,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bus {
    Nvme,
    Sata,
    Virtio,
    Usb,
    Mmc,
    Other,
}

/// The emptiness test of design §7 and the evidence that a plan id is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub empty: bool,
    /// SHA-256 over what was found (partition table, first and last 16 MiB, sampled blocks), the marker's place left out.
    pub evidence: crate::ids::Digest,
    /// In words, for a person: "GPT with 3 partitions", "LUKS", "mounted as /", …
    pub found: Vec<String>,
    /// In use, so never a target: mounted, swap, md or dm member.
    pub busy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    pub mac: Mac,
    pub driver: Option<String>,
    pub carrier: bool,
    pub speed_mbps: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// As the kernel writes it; domains above 0000 are normal (DGX Spark: `000f:01:00.0`).
    pub slot: String,
    pub vendor: u16,
    pub device: u16,
    /// Class, subclass and interface: 0x030000 is a VGA display.
    pub class: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    pub uefi: bool,
    /// `None` when the firmware has no such variable.
    pub secure_boot: Option<bool>,
    /// EFI variables can be written from this system.
    pub variables: bool,
}
