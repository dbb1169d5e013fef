//! `verify`: what the disk gives back, frame by frame, compared with the image's table.
//!
//! The disk is read past every cache (see [`super::disk::Disk::read_at`]) on one thread; digests are made on others.

use super::disk::Disk;
use super::ordered::ordered;
use super::survey::is_zero;
use super::write::{Slot, WriteError};
use muster_protocol::ids::Digest;
use muster_protocol::image::Stored;

impl Slot<'_> {
    /// Reads every frame back and returns those that are not what the table says.
    pub fn verify(&self, disk: &mut dyn Disk, told: &mut dyn FnMut(u64)) -> Result<Vec<usize>, WriteError> {
        let mut wrong = Vec::new();
        self.read_back(disk, |frame, right| {
            if !right {
                wrong.push(frame);
            }
            told(self.place(frame) - self.start + self.length(frame));
            true
        })?;
        Ok(wrong)
    }

    /// How many frames from the start are already right: where a resumed install goes on.
    pub fn kept(&self, disk: &mut dyn Disk) -> Result<usize, WriteError> {
        let mut kept = 0;
        self.read_back(disk, |_frame, right| {
            kept += usize::from(right);
            right
        })?;
        Ok(kept)
    }

    /// Judges frame after frame until `judged` says no.
    fn read_back(
        &self,
        disk: &mut dyn Disk,
        mut judged: impl FnMut(usize, bool) -> bool,
    ) -> Result<(), WriteError> {
        /// Not a failure: enough was read.
        enum End {
            Enough,
            Failed(WriteError),
        }
        let mut frames = 0..self.index.frames.len();
        let feed = || {
            let frame = frames.next()?;
            let mut raw = vec![0; usize::try_from(self.length(frame)).unwrap_or(0)];
            Some(match disk.read_at(self.place(frame), &mut raw) {
                Ok(()) => Ok((frame, raw)),
                Err(source) => Err(End::Failed(WriteError::Disk { frame, source })),
            })
        };
        let judge = |(frame, raw): (usize, Vec<u8>)| Ok((frame, self.is_right(frame, &raw)));
        let end =
            ordered(
                self.workers,
                feed,
                judge,
                |(frame, right)| {
                    if judged(frame, right) { Ok(()) } else { Err(End::Enough) }
                },
            );
        match end {
            Ok(()) | Err(End::Enough) => Ok(()),
            Err(End::Failed(error)) => Err(error),
        }
    }

    pub(super) fn is_right(&self, frame: usize, raw: &[u8]) -> bool {
        let entry = &self.index.frames[frame];
        match entry.stored {
            Stored::Zero => is_zero(raw),
            Stored::Zstd { .. } => Digest::of(raw) == entry.raw,
        }
    }
}
