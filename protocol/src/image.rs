//! The table of a node image: independent frames, each verified before it is written.

use crate::ids::{Arch, Digest};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Raw bytes of every frame but the last.
pub const FRAME_BYTES: u64 = 4 << 20;

/// An order names the SHA-256 of this table's bytes (version byte included); the table names everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIndex {
    pub arch: Arch,
    /// For people: `debian-13-20261124`.
    pub version: String,
    /// Kernel whose modules are inside; only a UKI with the same release boots it.
    pub kernel_release: String,
    pub raw_bytes: u64,
    /// The file that holds the stored frames, fetched in ranges.
    pub blob: Digest,
    pub blob_bytes: u64,
    pub frames: Vec<Frame>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// SHA-256 of the raw bytes.
    pub raw: Digest,
    pub stored: Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Nothing but zeros; not in the blob.
    Zero,
    /// One zstd frame (RFC 8878) at this place of the blob.
    Zstd { offset: u64, bytes: u32 },
}

impl Versioned for ImageIndex {
    const VERSION: u8 = 1;
}
