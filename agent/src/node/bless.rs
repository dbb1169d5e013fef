//! The booted slot is good: this service is up on it. Said in the marker, and to systemd-boot by taking the boot counter
//! off the UKI's name on the ESP.

use crate::install::blockdev::BlockDevice;
use crate::install::marker::read_marker;
use crate::state::{BootedSlot, Root};
use muster_protocol::ids::ClusterId;
use muster_protocol::marker::Marker;
use nix::mount::{MntFlags, MsFlags, mount, umount};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MOUNT: &str = "/run/muster/esp";

#[derive(Debug, thiserror::Error)]
pub enum BlessError {
    #[error("cannot read or write the marker on {}", disk.display())]
    Marker { disk: PathBuf, source: io::Error },
    #[error("{} carries no marker with the booted slot", disk.display())]
    NoMarker { disk: PathBuf },
    #[error("cannot take the boot counter off `{uki}` on {}", esp.display())]
    Esp { esp: PathBuf, uki: String, source: io::Error },
}

/// Both, in this order: a marker that says good is what PID 1 goes by; the name only spares systemd-boot a doubt.
pub fn bless(root: &Root, cluster: ClusterId, booted: &BootedSlot) -> Result<(), BlessError> {
    let disk = &booted.disk;
    let failed = |source| BlessError::Marker { disk: disk.clone(), source };
    let marker =
        BlockDevice::read_only(disk, 512).and_then(|mut disk| read_marker(&mut disk)).map_err(failed)?;
    let marker = marker.filter(|marker| marker.cluster == cluster);
    let missing = || BlessError::NoMarker { disk: disk.clone() };
    let marker = marker.ok_or_else(missing)?;
    let slot = marker.slots.get(booted.index).and_then(Option::as_ref).ok_or_else(missing)?;
    let uki = slot.uki_name.clone();
    if let Some(next) = with_good_slot(&marker, booted.index) {
        // Not through the installer's exclusive handle: this disk's partitions are mounted.
        let copy = next.to_copy().ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let file = File::options().write(true).open(disk).map_err(failed)?;
        file.write_all_at(&copy, next.offset()).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    uncount_on(root, &booted.esp, &uki).map_err(|source| BlessError::Esp {
        esp: booted.esp.clone(),
        uki,
        source,
    })
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

fn uncount_on(root: &Root, esp: &Path, uki: &str) -> io::Result<()> {
    let at = root.path(MOUNT);
    fs::create_dir_all(&at)?;
    mount(Some(esp), &at, Some("vfat"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>)?;
    let renamed = uncount(&at.join("EFI/Linux"), uki);
    // A flush by unmounting; lazily, should something look at it right now.
    umount(&at).or_else(|_| nix::mount::umount2(&at, MntFlags::MNT_DETACH))?;
    renamed
}

/// `name+2-1.efi` becomes `name.efi`.
fn uncount(folder: &Path, uki: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|found| is_counted(found, uki)) {
            return fs::rename(entry.path(), folder.join(format!("{uki}.efi")));
        }
    }
    Ok(())
}

/// The Boot Loader Specification's counter: `+LEFT` or `+LEFT-DONE` before `.efi`. FAT does not keep case.
fn is_counted(found: &str, uki: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let Some((name, counter)) = found.rsplit_once('+') else { return false };
    let Some(counter) = counter.to_ascii_lowercase().strip_suffix(".efi").map(str::to_owned) else {
        return false;
    };
    name.eq_ignore_ascii_case(uki)
        && counter.split_once('-').map_or(digits(&counter), |(a, b)| digits(a) && digits(b))
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
    fn the_counter_is_taken_off_the_booted_uki_alone() {
        let root = scratch();
        let folder = root.path("/linux");
        fs::create_dir_all(&folder).unwrap();
        for name in ["muster-6.12-0123abcd+2-1.efi", "muster-6.13-9999ffff+3.efi"] {
            fs::write(folder.join(name), "").unwrap();
        }
        for _ in 0..2 {
            uncount(&folder, "muster-6.12-0123abcd").unwrap();
            assert!(folder.join("muster-6.12-0123abcd.efi").exists());
            assert!(folder.join("muster-6.13-9999ffff+3.efi").exists());
        }
    }

    #[test]
    fn counters_are_told_from_names() {
        for (name, counted) in [
            ("a+3.efi", true),
            ("a+0-3.efi", true),
            ("A+3.EFI", true),
            ("a.efi", false),
            ("a+x.efi", false),
            ("a+.efi", false),
            ("b+3.efi", false),
            ("a+3", false),
        ] {
            assert_eq!(is_counted(name, "a"), counted, "{name}");
        }
    }

    #[test]
    fn a_disk_without_our_marker_is_left_alone() {
        let root = scratch();
        fs::write(root.path("/disk"), vec![0; 4 << 20]).unwrap();
        let booted =
            BootedSlot { disk: root.path("/disk"), esp: root.path("/esp"), index: 0, image: Digest([1; 32]) };
        let refused = bless(&root, ClusterId([9; 16]), &booted);
        assert!(matches!(refused, Err(BlessError::NoMarker { .. })), "{refused:?}");
        let copy = marker().to_copy().unwrap();
        let disk = File::options().write(true).open(root.path("/disk")).unwrap();
        disk.write_all_at(&copy, marker().offset()).unwrap();
        let other_cluster = bless(&root, ClusterId([1; 16]), &booted);
        assert!(matches!(other_cluster, Err(BlessError::NoMarker { .. })));
        // Ours: the marker is written although the ESP cannot be mounted in this test.
        assert!(matches!(bless(&root, ClusterId([9; 16]), &booted), Err(BlessError::Esp { .. })));
        let mut disk = BlockDevice::read_only(&root.path("/disk"), 512).unwrap();
        assert!(read_marker(&mut disk).unwrap().unwrap().slots[0].as_ref().unwrap().good);
    }
}
