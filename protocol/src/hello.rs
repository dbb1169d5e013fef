//! The exchange that must be understood for ever: an old UKI on a disk says this to a provisioner years younger.
//!
//! `POST /agent/hello` over TLS; everything else has versions, this has only version 1.

use crate::ids::{ClusterId, Digest, Number};
use crate::order::Order;
use crate::signed::Signed;
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// An `Inventory`, in whatever version the agent knows: version byte and body.
    pub inventory: Vec<u8>,
    /// What the disk remembers; `None` on a disk without a marker of this cluster.
    pub marker: Option<MarkerSummary>,
    pub seen: Seen,
    /// Milliseconds since this machine's kernel started; dates the stages of this boot.
    pub uptime_ms: u64,
    /// Which of its MACs the machine was booted from or uses now.
    pub mac: crate::ids::Mac,
}

impl Versioned for Hello {
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerSummary {
    pub cluster: ClusterId,
    pub order: Number,
    pub installed: bool,
    /// The UKI of the slot that would be booted.
    pub uki: Digest,
    pub image: Digest,
}

/// The highest numbers this node has accepted; a provisioner with lower ones is an old copy and freezes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub delegation: u32,
    pub manifest: Number,
    pub order: Number,
    pub fence: Number,
    pub roster: Number,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Go on from your disk.
    Boot,
    /// Permission to write one disk.
    Install(Signed<Order>),
    Wait(Wait),
    /// Kexec the UKI with this digest, then ask again.
    FetchUki(Digest),
}

impl Versioned for Answer {
    const VERSION: u8 = 1;
}

/// Why nothing happens, for console and status. The code is for programs, the text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub code: u16,
    pub reason: String,
}

/// Codes of [`Wait`]; append only.
pub mod wait {
    pub const NOT_DECLARED: u16 = 1;
    pub const NOT_ADMITTED: u16 = 2;
    pub const WRONG_CLASS: u16 = 3;
    pub const GATE_CLOSED: u16 = 4;
    pub const MEMBER_STILL_LISTED: u16 = 5;
    pub const OTHER_KEY: u16 = 6;
    pub const DISK_NOT_EMPTY: u16 = 7;
    pub const NO_DISK: u16 = 8;
    pub const NO_IMAGE: u16 = 9;
    pub const INSTALL_BY_HAND: u16 = 10;
    pub const FROZEN: u16 = 11;
    pub const TWO_MACHINES: u16 = 12;
    pub const NO_UEFI: u16 = 13;
    /// Its hardware contradicts what its name or key says: another serial, another machine's MAC.
    pub const OTHER_MACHINE: u16 = 14;
}
