//! A raw root file system becomes a blob of independent zstd frames and a table of their digests.
//!
//! Frames are what an installer fetches, verifies and writes, each by itself, so that it can stop anywhere and go
//! on there. Zero frames are not stored. Nothing here knows what is inside the image.

use muster_protocol::ids::{Arch, Digest};
use muster_protocol::image::{FRAME_BYTES, Frame, ImageIndex, Stored};
use sha2::Digest as _;
use std::io::{self, Read, Write};

/// What the image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub arch: Arch,
    pub version: String,
    /// Kernel whose modules are inside.
    pub kernel_release: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot read the root file system after {bytes} bytes")]
    Read { bytes: u64, source: io::Error },
    #[error("cannot compress the frame at byte {at}")]
    Compress { at: u64, source: io::Error },
    #[error("cannot write the packed image after {bytes} bytes")]
    Write { bytes: u64, source: io::Error },
    #[error("the root file system is empty")]
    Empty,
}

/// Read `raw` to its end, write the stored frames to `blob`, and return the table that names it all.
pub fn pack(about: About, raw: &mut impl Read, blob: &mut impl Write) -> Result<ImageIndex, PackError> {
    let mut blob = Hashed { inner: blob, hash: sha2::Sha256::new(), bytes: 0 };
    let mut frames = Vec::new();
    let mut raw_bytes = 0;
    let mut frame = Vec::with_capacity(FRAME_BYTES as usize);
    let mut compressor =
        zstd::bulk::Compressor::new(LEVEL).map_err(|source| PackError::Compress { at: 0, source })?;
    loop {
        frame.clear();
        raw.by_ref()
            .take(FRAME_BYTES)
            .read_to_end(&mut frame)
            .map_err(|source| PackError::Read { bytes: raw_bytes, source })?;
        if frame.is_empty() {
            break;
        }
        let stored = if frame.iter().all(|byte| *byte == 0) {
            Stored::Zero
        } else {
            let packed = compressor
                .compress(&frame)
                .map_err(|source| PackError::Compress { at: raw_bytes, source })?;
            let offset = blob.bytes;
            blob.write(&packed).map_err(|source| PackError::Write { bytes: offset, source })?;
            // A frame of 4 MiB grows by a few bytes at worst.
            Stored::Zstd { offset, bytes: packed.len() as u32 }
        };
        frames.push(Frame { raw: Digest::of(&frame), stored });
        raw_bytes += frame.len() as u64;
    }
    if frames.is_empty() {
        return Err(PackError::Empty);
    }
    blob.inner.flush().map_err(|source| PackError::Write { bytes: blob.bytes, source })?;
    Ok(ImageIndex {
        arch: about.arch,
        version: about.version,
        kernel_release: about.kernel_release,
        raw_bytes,
        blob: Digest(blob.hash.finalize().into()),
        blob_bytes: blob.bytes,
        frames,
    })
}

/// Packed once, unpacked by every machine, slowly in some: level 12 is where the size stops falling fast.
const LEVEL: i32 = 12;

struct Hashed<'a, W> {
    inner: &'a mut W,
    hash: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::wire;
    use proptest::prelude::*;

    fn about() -> About {
        About { arch: Arch::X86_64, version: "debian-13-test".into(), kernel_release: "6.12.1".into() }
    }

    /// What an installer does, without its disk.
    fn unpack(index: &ImageIndex, blob: &[u8]) -> Vec<u8> {
        assert_eq!(Digest::of(blob), index.blob);
        assert_eq!(blob.len() as u64, index.blob_bytes);
        let mut raw = Vec::new();
        for (number, frame) in index.frames.iter().enumerate() {
            let want = (index.raw_bytes - number as u64 * FRAME_BYTES).min(FRAME_BYTES) as usize;
            let content = match frame.stored {
                Stored::Zero => vec![0; want],
                Stored::Zstd { offset, bytes } => {
                    let packed = &blob[offset as usize..offset as usize + bytes as usize];
                    zstd::bulk::decompress(packed, FRAME_BYTES as usize).unwrap()
                }
            };
            assert_eq!((content.len(), Digest::of(&content)), (want, frame.raw));
            raw.extend_from_slice(&content);
        }
        raw
    }

    fn packed(raw: &[u8]) -> (ImageIndex, Vec<u8>) {
        let mut blob = Vec::new();
        let index = pack(about(), &mut &raw[..], &mut blob).unwrap();
        (index, blob)
    }

    #[test]
    fn zero_frames_take_no_room_and_the_last_frame_is_short() {
        let mut raw = vec![0; 2 * FRAME_BYTES as usize];
        raw.extend_from_slice(b"the end");
        let (index, blob) = packed(&raw);
        assert_eq!(index.frames.len(), 3);
        assert!(matches!(index.frames[0].stored, Stored::Zero));
        assert!(
            matches!(index.frames[2].stored, Stored::Zstd { offset: 0, bytes } if u64::from(bytes) == index.blob_bytes)
        );
        assert_eq!(unpack(&index, &blob), raw);
    }

    #[test]
    fn the_same_image_gives_the_same_table_and_blob() {
        let raw: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let (first, second) = (packed(&raw), packed(&raw));
        assert_eq!((wire::encode(&first.0), first.1), (wire::encode(&second.0), second.1));
    }

    #[test]
    fn an_empty_image_is_refused() {
        assert!(matches!(pack(about(), &mut io::empty(), &mut Vec::new()), Err(PackError::Empty)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn what_was_packed_is_unpacked(
            pieces in proptest::collection::vec((any::<u8>(), 1_usize..3_000_000), 1..5),
        ) {
            let raw: Vec<u8> = pieces.iter().flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count)).collect();
            let (index, blob) = packed(&raw);
            prop_assert_eq!(unpack(&index, &blob), raw);
        }
    }
}
