//! The marker's two copies on a disk: read both, write one after the other, flush after each.

use super::disk::{Disk, read};
use muster_protocol::marker::{COPY_BYTES, COPY_STRIDE, LENGTH, Marker, OFFSET};
use std::io;

/// The newer valid copy; one block that cannot be read does not take both. An error is not "no marker": a disk that
/// cannot be read must not pass for a fresh one.
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
    let mut copy = |offset| read(disk, offset, COPY_BYTES).map(|bytes| Marker::from_copy(&bytes));
    match (copy(OFFSET), copy(OFFSET + COPY_STRIDE)) {
        (Ok(first), Ok(second)) => Ok([first, second]),
        (Ok(Some(only)), Err(_)) => Ok([Some(only), None]),
        (Err(_), Ok(Some(only))) => Ok([None, Some(only)]),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn newest(copies: &[Option<Marker>; 2]) -> Option<&Marker> {
    copies.iter().flatten().max_by_key(|marker| marker.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::{ClusterId, Number};
    use muster_protocol::keys::Fingerprint;
    use muster_protocol::marker::MarkerState;

    /// A disk of the first 4 MiB, on which some blocks cannot be read until they are written again.
    struct Worn {
        bytes: Vec<u8>,
        bad: Vec<u64>,
    }

    impl Disk for Worn {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }
        fn block_bytes(&self) -> u32 {
            512
        }
        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            if self.bad.contains(&offset) {
                return Err(io::Error::other("medium error"));
            }
            let at = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.bytes[at..at + into.len()]);
            Ok(())
        }
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.bad.retain(|bad| *bad != offset);
            let at = usize::try_from(offset).unwrap();
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn marker(state: MarkerState) -> Marker {
        Marker {
            sequence: 0,
            cluster: ClusterId([9; 16]),
            node: "mini-pc-1".parse().unwrap(),
            key: Fingerprint([7; 10]),
            order: Number { delegation: 1, generation: 0, n: 5 },
            state,
            slots: [None, None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    #[test]
    fn a_bad_block_takes_one_copy_and_not_the_marker() {
        let places = [OFFSET, OFFSET + COPY_STRIDE];
        for bad in places {
            let mut disk = Worn { bytes: vec![0; 4 << 20], bad: vec![] };
            settle(&mut disk, &marker(MarkerState::Installed)).unwrap();
            disk.bad = vec![bad];
            assert_eq!(read_marker(&mut disk).unwrap().unwrap().state, MarkerState::Installed);
            let again = settle(&mut disk, &marker(MarkerState::Installing)).unwrap();
            assert_eq!((again.state, disk.bad.len()), (MarkerState::Installing, 0), "both are written");
            disk.bad = places.to_vec();
            assert!(read_marker(&mut disk).is_err(), "not a fresh disk");
        }
    }

    #[test]
    fn a_blank_disk_with_a_bad_block_is_not_called_fresh() {
        let mut disk = Worn { bytes: vec![0; 4 << 20], bad: vec![OFFSET] };
        assert!(read_marker(&mut disk).is_err());
        disk.bad.clear();
        assert_eq!(read_marker(&mut disk).unwrap(), None);
    }
}
