//! The booted slot is good: this service is up on it. Said in the marker, which is what PID 1 goes by. The ESP is not
//! touched: a name on FAT cannot be changed so that a power cut leaves the old one or the new one
//! (docs/decisions/0007-a-uki-without-a-counter.md).

use crate::install::blockdev::BlockDevice;
use crate::install::marker::read_marker;
use crate::state::BootedSlot;
use muster_protocol::ids::ClusterId;
use muster_protocol::marker::Marker;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum BlessError {
    #[error("cannot read or write the marker on {}", disk.display())]
    Marker { disk: PathBuf, source: io::Error },
    #[error("{} carries no marker with the booted slot", disk.display())]
    NoMarker { disk: PathBuf },
}

/// Writes only what the marker does not say yet.
pub fn bless(cluster: ClusterId, booted: &BootedSlot) -> Result<(), BlessError> {
    let disk = &booted.disk;
    let failed = |source| BlessError::Marker { disk: disk.clone(), source };
    let marker =
        BlockDevice::read_only(disk, 512).and_then(|mut disk| read_marker(&mut disk)).map_err(failed)?;
    let marker = marker.filter(|marker| marker.cluster == cluster);
    let missing = || BlessError::NoMarker { disk: disk.clone() };
    let marker = marker.ok_or_else(missing)?;
    marker.slots.get(booted.index).and_then(Option::as_ref).ok_or_else(missing)?;
    let Some(next) = with_good_slot(&marker, booted.index) else { return Ok(()) };
    // Not through the installer's exclusive handle: this disk's partitions are mounted.
    let copy = next.to_copy().ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    let file = File::options().write(true).open(disk).map_err(failed)?;
    file.write_all_at(&copy, next.offset()).and_then(|()| file.sync_all()).map_err(failed)
}

/// The marker to write, `None` when it says so already.
fn with_good_slot(marker: &Marker, index: usize) -> Option<Marker> {
    let mut next = marker.clone();
    let slot = next.slots.get_mut(index)?.as_mut()?;
    if slot.good && marker.fetched.is_empty() {
        return None;
    }
    slot.good = true;
    // This was a good boot: what was fetched on the way here may be fetched again.
    next.fetched.clear();
    next.sequence += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, scratch};
    use muster_protocol::ids::Digest;
    use muster_protocol::marker::{MarkerState, Slot};

    fn marker() -> Marker {
        let slot = Slot {
            image: Digest([1; 32]),
            uki: Digest([2; 32]),
            uki_name: "muster-6.12-0123abcd".into(),
            kernel_release: "6.12".into(),
            written: 1,
            tries_left: 2,
            good: false,
        };
        Marker {
            sequence: 5,
            cluster: ClusterId([9; 16]),
            node: Cluster::name(1),
            key: Cluster::new().node(1).public().fingerprint(),
            order: Cluster::number(3),
            state: MarkerState::Installed,
            slots: [Some(slot), None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    #[test]
    fn the_booted_slot_is_marked_good_once() {
        let next = with_good_slot(&marker(), 0).unwrap();
        assert_eq!(next.sequence, 6);
        assert!(next.slots[0].as_ref().unwrap().good);
        assert_eq!(with_good_slot(&next, 0), None);
        assert_eq!(with_good_slot(&marker(), 1), None);
        assert_eq!(with_good_slot(&marker(), 7), None);
    }

    #[test]
    fn a_disk_without_our_marker_is_left_alone() {
        let root = scratch();
        std::fs::write(root.path("/disk"), vec![0; 4 << 20]).unwrap();
        let booted = BootedSlot { disk: root.path("/disk"), index: 0, image: Digest([1; 32]) };
        let refused = bless(ClusterId([9; 16]), &booted);
        assert!(matches!(refused, Err(BlessError::NoMarker { .. })), "{refused:?}");
        let copy = marker().to_copy().unwrap();
        let disk = File::options().write(true).open(root.path("/disk")).unwrap();
        disk.write_all_at(&copy, marker().offset()).unwrap();
        let other_cluster = bless(ClusterId([1; 16]), &booted);
        assert!(matches!(other_cluster, Err(BlessError::NoMarker { .. })));
        bless(ClusterId([9; 16]), &booted).unwrap();
        let mut disk = BlockDevice::read_only(&root.path("/disk"), 512).unwrap();
        assert!(read_marker(&mut disk).unwrap().unwrap().slots[0].as_ref().unwrap().good);
    }
}
