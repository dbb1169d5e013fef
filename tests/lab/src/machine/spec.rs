//! What a machine is made of, as a test writes it down.

use super::hardware::Hardware;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

/// What the firmware tries first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// An empty disk falls through to the network within a second.
    Disk,
    /// OVMF rewrites the boot order from this at each start, so the machine netboots for ever.
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    Nvme,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    pub bus: Bus,
    pub size: u64,
    pub serial: String,
}

/// Starts without a network, for smoke tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direct {
    /// The firmware runs this EFI program; a UKI brings its own command line.
    Efi(PathBuf),
    Kernel {
        kernel: PathBuf,
        initrd: PathBuf,
        cmdline: String,
    },
}

#[derive(Debug, Clone)]
pub struct Spec {
    /// Short and without slashes: it names files, and with the LAN's folder it must fit a socket path.
    pub name: String,
    pub arch: Arch,
    /// One network card each; the first is bootable.
    pub macs: Vec<String>,
    pub hardware: Hardware,
    pub serial: String,
    pub uuid: String,
    pub memory_mib: u32,
    pub cpus: u32,
    pub disks: Vec<DiskSpec>,
    pub first: First,
    /// How far its real-time clock is ahead (+) or behind (−) at each start, in seconds.
    pub clock_error_s: i64,
    pub direct: Option<Direct>,
}

impl Arch {
    pub fn word(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl FromStr for Arch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "x86_64" | "amd64" | "x64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            other => bail!("`{other}` is no architecture of ours\nhint: x86_64 or aarch64"),
        }
    }
}
