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

/// What a table must hold before a single frame is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    #[error("the image has no bytes, or its length {raw_bytes} is not a multiple of 4096")]
    Length { raw_bytes: u64 },
    #[error("the image is {raw_bytes} bytes long and needs {want} frames, its table has {have}")]
    FrameCount { raw_bytes: u64, want: u64, have: usize },
    #[error("frame {frame} lies outside the stored file of {blob_bytes} bytes, or is longer than any frame")]
    Frame { frame: usize, blob_bytes: u64 },
}

impl ImageIndex {
    /// Refuses a table that could make its reader ask for, keep, or write too much.
    /// `frame_bytes` is [`FRAME_BYTES`] everywhere but in tests of small disks.
    pub fn check(&self, frame_bytes: u64) -> Result<(), BadImage> {
        let raw_bytes = self.raw_bytes;
        if raw_bytes == 0 || !raw_bytes.is_multiple_of(4096) {
            return Err(BadImage::Length { raw_bytes });
        }
        let want = raw_bytes.div_ceil(frame_bytes);
        if self.frames.len() as u64 != want {
            return Err(BadImage::FrameCount { raw_bytes, want, have: self.frames.len() });
        }
        for (frame, entry) in self.frames.iter().enumerate() {
            if let Stored::Zstd { offset, bytes } = entry.stored {
                let bytes = u64::from(bytes);
                // zstd's own bound for input that does not compress is below 1/128 and a few bytes (RFC 8878 §3.1.1.2).
                let longest = frame_bytes + frame_bytes / 128 + 1024;
                let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.blob_bytes);
                if bytes == 0 || bytes > longest || !inside {
                    return Err(BadImage::Frame { frame, blob_bytes: self.blob_bytes });
                }
            }
        }
        Ok(())
    }

    /// Raw length of one frame: the last one may be shorter.
    pub fn raw_bytes_of(&self, frame: usize, frame_bytes: u64) -> u64 {
        let start = (frame as u64).saturating_mul(frame_bytes);
        self.raw_bytes.saturating_sub(start).min(frame_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn index() -> ImageIndex {
        ImageIndex {
            arch: Arch::X86_64,
            version: "test".into(),
            kernel_release: "6.12.48".into(),
            raw_bytes: FRAME_BYTES + 4096,
            blob: Digest([1; 32]),
            blob_bytes: 1000,
            frames: vec![
                Frame { raw: Digest([2; 32]), stored: Stored::Zstd { offset: 0, bytes: 1000 } },
                Frame { raw: Digest([3; 32]), stored: Stored::Zero },
            ],
        }
    }

    #[test]
    fn a_sound_table_passes_and_its_last_frame_is_short() {
        let index = index();
        assert_eq!(index.check(FRAME_BYTES), Ok(()));
        assert_eq!(index.raw_bytes_of(0, FRAME_BYTES), FRAME_BYTES);
        assert_eq!(index.raw_bytes_of(1, FRAME_BYTES), 4096);
        assert_eq!(index.raw_bytes_of(2, FRAME_BYTES), 0);
    }

    #[test]
    fn a_table_of_the_wrong_length_is_refused() {
        let mut index = index();
        index.frames.pop();
        assert!(matches!(index.check(FRAME_BYTES), Err(BadImage::FrameCount { want: 2, have: 1, .. })));
        index.raw_bytes = 1000;
        assert!(matches!(index.check(FRAME_BYTES), Err(BadImage::Length { .. })));
        index.raw_bytes = 0;
        assert!(matches!(index.check(FRAME_BYTES), Err(BadImage::Length { .. })));
    }

    #[test]
    fn a_frame_outside_its_file_is_refused() {
        for (offset, bytes) in [(1, 1000), (u64::MAX, 1), (0, 0), (0, 5 << 20)] {
            let mut index = index();
            index.blob_bytes = if bytes > 1000 { u64::MAX } else { 1000 };
            index.frames[0].stored = Stored::Zstd { offset, bytes };
            assert!(
                matches!(index.check(FRAME_BYTES), Err(BadImage::Frame { frame: 0, .. })),
                "{offset} {bytes}"
            );
        }
    }
}
