//! The marker's two copies on a disk: read both, write one after the other, flush after each.

use super::disk::{Disk, read};
use muster_protocol::marker::{COPY_BYTES, COPY_STRIDE, LENGTH, Marker, OFFSET};
use std::io;

/// The newer valid copy. An error is not "no marker": a disk that cannot be read must not pass for a fresh one.
pub fn read_marker(disk: &mut dyn Disk) -> io::Result<Option<Marker>> {
    let copies = copies(disk)?;
    Ok(newest(&copies).cloned())
}

/// Writes the copy that this marker's sequence names, and flushes. For one change of an installed system's marker;
/// the caller has raised `sequence`.
pub fn write_marker(disk: &mut dyn Disk, marker: &Marker) -> io::Result<()> {
    let copy = marker.to_copy().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the marker is longer than {COPY_BYTES} bytes"))
    })?;
    disk.write_at(marker.offset(), &copy)?;
    disk.flush()
}

/// Makes both copies say this (its `sequence` aside) and returns the newer one.
///
/// Both, because the copies are each other's stand-in: if only one said `installing` and its block went bad, the
/// other would still call half overwritten slots installed. Copies that say so already are left alone, so repeating
/// this costs nothing.
pub fn settle(disk: &mut dyn Disk, wanted: &Marker) -> io::Result<Marker> {
    // Two rounds are enough (each writes the copy that is not the newest); a third would mean that writes do not
    // stick.
    for _ in 0..3 {
        let copies = copies(disk)?;
        let newest = newest(&copies);
        let settled = |copy: &Option<Marker>| copy.as_ref().is_some_and(|copy| copy.says_the_same_as(wanted));
        if let (Some(newest), true) = (newest, copies.iter().all(settled)) {
            return Ok(newest.clone());
        }
        let sequence = newest.map_or(1, |newest| newest.sequence + 1);
        write_marker(disk, &Marker { sequence, ..wanted.clone() })?;
    }
    Err(io::Error::other("the marker was written but does not read back"))
}

fn copies(disk: &mut dyn Disk) -> io::Result<[Option<Marker>; 2]> {
    if disk.size() < OFFSET + LENGTH {
        return Ok([None, None]);
    }
    let first = read(disk, OFFSET, COPY_BYTES)?;
    let second = read(disk, OFFSET + COPY_STRIDE, COPY_BYTES)?;
    Ok([Marker::from_copy(&first), Marker::from_copy(&second)])
}

fn newest(copies: &[Option<Marker>; 2]) -> Option<&Marker> {
    copies.iter().flatten().max_by_key(|marker| marker.sequence)
}
