//! `write`: the node image into its slot, frame by frame.
//!
//! A frame is fetched, unpacked, its digest compared, and only then written: no byte that the order does not name
//! reaches the disk. Fetching, unpacking and writing overlap; frames are written in order, so what a cut leaves is a
//! prefix, and a resumed install keeps the prefix whose digests hold.

use super::disk::{Disk, zero};
use super::fetch::{FetchError, Source};
use super::ordered::ordered;
use muster_protocol::image::{ImageIndex, Stored};
use ruzstd::decoding::FrameDecoder;
use std::io;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("frame {frame} of the image cannot be had")]
    Fetch {
        frame: usize,
        #[source]
        source: FetchError,
    },
    #[error("frame {frame} of the image is not what its table says ({why}); nothing of it was written")]
    Frame { frame: usize, why: String },
    #[error("the disk failed at frame {frame}")]
    Disk {
        frame: usize,
        #[source]
        source: io::Error,
    },
}

/// One image in one slot.
pub struct Slot<'a> {
    pub index: &'a ImageIndex,
    /// Where the slot begins on the disk.
    pub start: u64,
    /// Raw bytes of a frame.
    pub frame: u64,
    pub workers: usize,
}

/// A frame on its way to the disk: its place in the table, and its bytes unless it is all zeros.
type Ready = (usize, Option<Vec<u8>>);

impl Slot<'_> {
    /// Writes every frame from `first` on. On a disk that passed the emptiness test (`blank`) zero frames are not
    /// written; `verify` reads them like all others. `told` gets the raw bytes done so far.
    pub fn write(
        &self,
        disk: &mut dyn Disk,
        source: &mut dyn Source,
        first: usize,
        blank: bool,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), WriteError> {
        let mut frames =
            (first..self.index.frames.len()).map(|frame| (frame, self.index.frames[frame].stored));
        let feed = || {
            let (frame, stored) = frames.next()?;
            Some(match stored {
                Stored::Zero => Ok((frame, None)),
                Stored::Zstd { offset, bytes } => {
                    let mut packed = vec![0; bytes as usize];
                    match source.part(&self.index.blob, offset, &mut packed) {
                        Ok(()) => Ok((frame, Some(packed))),
                        Err(source) => Err(WriteError::Fetch { frame, source }),
                    }
                }
            })
        };
        let idle = Mutex::new(Vec::new());
        let unpack = |(frame, packed): Ready| match packed {
            None => Ok((frame, None)),
            Some(packed) => {
                let raw =
                    self.unpack(frame, &packed, &idle).map_err(|why| WriteError::Frame { frame, why })?;
                Ok((frame, Some(raw)))
            }
        };
        ordered(self.workers, feed, unpack, |(frame, raw)| {
            let at = self.place(frame);
            let written = match raw {
                Some(raw) => disk.write_at(at, &raw),
                None if blank => Ok(()),
                None => zero(disk, at..at + self.length(frame)),
            };
            written.map_err(|source| WriteError::Disk { frame, source })?;
            told(self.place(frame) - self.start + self.length(frame));
            Ok(())
        })?;
        disk.flush().map_err(|source| WriteError::Disk { frame: self.index.frames.len(), source })
    }

    /// Zeros for these frames, where the emptiness test had missed something.
    pub fn write_zeros(&self, disk: &mut dyn Disk, frames: &[usize]) -> Result<(), WriteError> {
        for frame in frames.iter().copied() {
            let at = self.place(frame);
            zero(disk, at..at + self.length(frame)).map_err(|source| WriteError::Disk { frame, source })?;
        }
        disk.flush().map_err(|source| WriteError::Disk { frame: self.index.frames.len(), source })
    }

    /// `idle` keeps decoders between frames: a new one's tables and buffer cost a quarter of the work.
    fn unpack(
        &self,
        frame: usize,
        packed: &[u8],
        idle: &Mutex<Vec<FrameDecoder>>,
    ) -> Result<Vec<u8>, String> {
        let mut raw = vec![0; usize::try_from(self.length(frame)).unwrap_or(0)];
        let kept = || idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut decoder = kept().pop().unwrap_or_else(|| {
            let mut decoder = FrameDecoder::new();
            // A header may announce a window of gigabytes; ours is never larger than a frame (zstd rounds up).
            decoder.set_max_window_size((2 * self.frame).max(8 << 20));
            decoder
        });
        let have = decoder.decode_all(packed, &mut raw).map_err(|error| error.to_string())?;
        if have != raw.len() {
            return Err(format!("it has {have} bytes, not {}", raw.len()));
        }
        if !self.is_right(frame, &raw) {
            return Err("its digest differs".into());
        }
        // Only one that did well is used again.
        kept().push(decoder);
        Ok(raw)
    }

    pub(super) fn place(&self, frame: usize) -> u64 {
        self.start + frame as u64 * self.frame
    }

    pub(super) fn length(&self, frame: usize) -> u64 {
        self.index.raw_bytes_of(frame, self.frame)
    }
}
