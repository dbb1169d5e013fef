//! What the machine is now: detection, and what lies on each fixed disk that nobody uses.

use super::disks::is_fixed;
use super::machine::Machine;
use crate::detect;
use crate::install::blockdev::BlockDevice;
use crate::install::busy::in_use;
use crate::install::plan::Sizes;
use crate::install::survey::survey;
use muster_protocol::ids::ClusterId;
use muster_protocol::inventory::{Contents, Disk, Inventory};
use std::path::Path;

/// Detects anew, keeping what is already known of disks that are still there. True when the set of disks changed.
pub(super) fn refresh(machine: &mut Machine, root: &Path) -> bool {
    let mut now = detect::inventory(root);
    let Some(before) = machine.inventory.take() else {
        machine.inventory = Some(now);
        return true;
    };
    for disk in &mut now.disks {
        let known = before.disks.iter().find(|known| known.name == disk.name && known.id == disk.id);
        disk.contents = known.and_then(|known| known.contents.clone());
    }
    let names = |inventory: &Inventory| -> Vec<_> {
        inventory.disks.iter().map(|disk| (disk.name.clone(), disk.id.clone())).collect()
    };
    let changed = names(&now) != names(&before);
    machine.inventory = Some(now);
    if changed {
        look(machine, root);
    }
    changed
}

/// Fills in the contents of fixed disks that were not looked at yet. The disk that this machine boots from is left
/// out: it is in use, and a boot must not wait for 1,024 samples.
pub(super) fn look(machine: &mut Machine, root: &Path) {
    let Some(cluster) = machine.trust.as_ref().map(|trust| trust.cluster) else { return };
    let booted = machine.ours.as_ref().filter(|ours| ours.mounted).map(|ours| ours.name.clone());
    let Some(inventory) = &mut machine.inventory else { return };
    for disk in inventory.disks.iter_mut().filter(|disk| disk.contents.is_none() && is_fixed(disk)) {
        if booted.as_ref() == Some(&disk.name) {
            continue;
        }
        match contents(root, disk, cluster) {
            Ok(contents) => {
                let found = contents.found.join(", ");
                tracing::info!(disk = disk.name, empty = contents.empty, found, "disk");
                disk.contents = Some(contents);
            }
            Err(error) => tracing::warn!(disk = disk.name, %error, "cannot look at a disk"),
        }
    }
}

fn contents(root: &Path, disk: &Disk, cluster: ClusterId) -> std::io::Result<Contents> {
    let path = root.join("dev").join(&disk.name);
    let mut device = BlockDevice::read_only(&path, disk.logical_block_bytes)?;
    survey(&mut device, &in_use(root, &disk.name), cluster, &Sizes::DESIGN)
}
