//! Which disk is ours: the markers of all fixed disks, the one that counts, and its data partition.

use super::coldplug::Coldplug;
use super::phases::timed;
use crate::detect::disks::{self, partition};
use crate::install::blockdev::BlockDevice;
use crate::install::marker::read_marker;
use anyhow::Context;
use muster_protocol::ids::ClusterId;
use muster_protocol::inventory::{Bus, Disk};
use muster_protocol::marker::{Marker, MarkerState};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Below this, the data partition is mounted as `var`, as it will be in the new root.
pub(super) const HELD: &str = "/held";
/// GPT partition numbers (design §7); 1 is the ESP, which nobody touches after the install.
pub(super) const SLOTS: [u32; 2] = [2, 3];
const DATA: u32 = 4;

/// A disk with a marker of this cluster.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    pub name: String,
    pub marker: Marker,
    /// Why it cannot be booted although its marker says installed.
    pub unbootable: Option<String>,
    pub mounted: bool,
}

impl Ours {
    pub(super) fn device(&self, number: u32) -> PathBuf {
        Path::new("/dev").join(partition(&self.name, number))
    }

    pub(super) fn disk(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Mounts the data partition; what goes wrong is kept as the reason why this disk cannot be booted.
    pub(super) fn mount_data(&mut self, coldplug: &mut Coldplug) {
        coldplug.load("ext4");
        match timed("data", || mount_data(&self.device(DATA))) {
            Ok(()) => self.mounted = true,
            Err(error) => self.unbootable = Some(format!("{error:#}")),
        }
    }

    /// Before its disk is written again.
    pub(super) fn release(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            let at = Path::new(HELD).join("var");
            umount2(&at, MntFlags::empty()).context("taking the data partition down")?;
            self.mounted = false;
        }
        Ok(())
    }

    /// Writes the next marker. Not through the installer's exclusive handle: the data partition is in use.
    pub(super) fn write_marker(&mut self, change: impl FnOnce(&mut Marker)) -> anyhow::Result<()> {
        let mut marker = self.marker.clone();
        marker.sequence += 1;
        change(&mut marker);
        let copy = marker.to_copy().context("the marker is too long")?;
        let disk =
            File::options().write(true).open(self.disk()).context("opening the disk for its marker")?;
        disk.write_all_at(&copy, marker.offset()).context("writing the marker")?;
        disk.sync_all().context("flushing the marker")?;
        self.marker = marker;
        Ok(())
    }
}

fn mount_data(device: &Path) -> anyhow::Result<()> {
    let at = Path::new(HELD).join("var");
    std::fs::create_dir_all(&at)?;
    mount(Some(device), &at, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
        .with_context(|| format!("mounting the data partition {}", device.display()))
}

/// The markers of all fixed disks. A disk that cannot be read is named and passed over.
pub(super) fn markers(root: &Path) -> Vec<(String, Marker)> {
    let mut found = Vec::new();
    for disk in disks::read(root).into_iter().filter(is_fixed) {
        let path = root.join("dev").join(&disk.name);
        let read = BlockDevice::read_only(&path, disk.logical_block_bytes)
            .and_then(|mut disk| read_marker(&mut disk));
        match read {
            Ok(marker) => found.extend(marker.map(|marker| (disk.name, marker))),
            Err(error) => tracing::warn!(disk = disk.name, %error, "cannot read a disk"),
        }
    }
    found
}

/// Not a USB stick, whatever is on it.
pub(super) fn is_fixed(disk: &Disk) -> bool {
    let plugged = match disk.bus {
        Bus::Usb => true,
        Bus::Nvme | Bus::Sata | Bus::Virtio | Bus::Mmc | Bus::Other => false,
    };
    !disk.removable && !plugged
}

/// The one that counts: an installed disk before a half installed one, so that a move to a new disk that was cut
/// short still leaves a machine that boots; then the newest order, then the last written.
pub(super) fn choose(found: Vec<(String, Marker)>, cluster: ClusterId) -> Option<Ours> {
    let (name, marker) = found
        .into_iter()
        .filter(|(_, marker)| marker.cluster == cluster)
        .max_by_key(|(_, marker)| (marker.state == MarkerState::Installed, marker.order, marker.sequence))?;
    Some(Ours { name, marker, unbootable: None, mounted: false })
}

/// Whether to stop looking for disks: at an installed one at once, at others when no more have come for a while.
/// Controllers probe on their own time, a disk array takes seconds.
pub(super) fn is_settled(installed: bool, any: bool, quiet_ms: u64, waited_ms: u64) -> bool {
    const QUIET_MS: u64 = 600;
    const NONE_MS: u64 = 5000;
    installed || (any && quiet_ms >= QUIET_MS) || waited_ms >= NONE_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::Number;
    use muster_protocol::keys::Fingerprint;

    const CLUSTER: ClusterId = ClusterId([9; 16]);

    fn marker(cluster: ClusterId, state: MarkerState, n: u64, sequence: u64) -> Marker {
        Marker {
            sequence,
            cluster,
            node: "mini-pc-1".parse().unwrap(),
            key: Fingerprint([7; 10]),
            order: Number { delegation: 1, generation: 0, n },
            state,
            slots: [None, None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    fn chosen(found: &[(&str, Marker)]) -> Option<String> {
        let found = found.iter().map(|(name, marker)| ((*name).to_owned(), marker.clone())).collect();
        choose(found, CLUSTER).map(|ours| ours.name)
    }

    #[test]
    fn the_disk_installed_last_counts() {
        let installed = |n| marker(CLUSTER, MarkerState::Installed, n, 1);
        assert_eq!(chosen(&[("sda", installed(5)), ("sdb", installed(9))]), Some("sdb".into()));
        assert_eq!(chosen(&[("sda", installed(9)), ("sdb", installed(5))]), Some("sda".into()));
    }

    #[test]
    fn a_move_to_a_new_disk_that_was_cut_short_leaves_the_old_one() {
        let old = marker(CLUSTER, MarkerState::Installed, 5, 8);
        let new = marker(CLUSTER, MarkerState::Installing, 9, 1);
        assert_eq!(chosen(&[("sda", old), ("sdb", new.clone())]), Some("sda".into()));
        assert_eq!(chosen(&[("sdb", new)]), Some("sdb".into()));
    }

    #[test]
    fn another_clusters_disk_is_not_ours() {
        assert_eq!(chosen(&[("sda", marker(ClusterId([1; 16]), MarkerState::Installed, 5, 1))]), None);
    }

    #[test]
    fn looking_ends_at_an_installed_disk_at_once() {
        assert!(is_settled(true, true, 0, 0));
        assert!(!is_settled(false, true, 500, 1200));
        assert!(is_settled(false, true, 600, 1200));
        assert!(!is_settled(false, false, 4000, 4000));
        assert!(is_settled(false, false, 5000, 5000));
    }
}
