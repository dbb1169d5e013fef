//! From the initramfs into an installed slot: mount, bind, hand over, `switch_root`.
//!
//! The root file system is read-only; `/var` is the data partition, and what else must be writable is bound from it.

use super::disks::{HELD, SLOTS};
use super::machine::Machine;
use super::phases::timed;
use super::{handover, skeleton};
use anyhow::Context;
use muster_protocol::ids::Digest;
use muster_protocol::marker::Marker;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NEW_ROOT: &str = "/newroot";

/// Why there was no switch.
pub(super) enum NoBoot {
    /// No slot could be mounted: the machine goes on asking.
    NoSlot(String),
    /// A slot was mounted, but its system cannot be started: its try is spent, so a reboot will not repeat it for ever.
    Broken(anyhow::Error),
}

/// Switches into the first slot that can be mounted. Returns only when it could not.
pub(super) fn boot(machine: &mut Machine, slots: &[usize]) -> NoBoot {
    let mut reasons = Vec::new();
    for slot in slots {
        match timed("root", || mount_slot(machine, *slot)) {
            Ok(()) => {
                return match enter(machine, *slot) {
                    Ok(never) => match never {},
                    Err(error) => NoBoot::Broken(error),
                };
            }
            Err(error) => {
                let name = ["A", "B"].get(*slot).copied().unwrap_or("?");
                tracing::warn!("slot {name} cannot be booted: {error:#}");
                reasons.push(format!("slot {name}: {error:#}"));
            }
        }
    }
    NoBoot::NoSlot(reasons.join("; "))
}

/// One try less for a slot that never came up. The node service makes it good.
fn spend_try(marker: &mut Marker, slot: usize) {
    if let Some(Some(slot)) = marker.slots.get_mut(slot)
        && !slot.good
    {
        slot.tries_left = slot.tries_left.saturating_sub(1);
    }
}

fn mount_slot(machine: &mut Machine, slot: usize) -> anyhow::Result<()> {
    let ours = machine.ours.as_mut().context("no disk to boot from")?;
    let good = ours.marker.slots.get(slot).and_then(Option::as_ref).is_some_and(|slot| slot.good);
    if !good {
        // A disk that no longer takes this write may still be read; a machine that is up can be asked.
        if let Err(error) = ours.write_marker(|marker| spend_try(marker, slot)) {
            tracing::error!("the try cannot be counted: {error:#}");
        }
    }
    let device = ours.device(*SLOTS.get(slot).context("there are two slots")?);
    fs::create_dir_all(NEW_ROOT)?;
    mount(Some(&device), NEW_ROOT, Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)
        .with_context(|| format!("mounting {}", device.display()))?;
    if fs::symlink_metadata(Path::new(NEW_ROOT).join("sbin/init")).is_err() {
        umount2(NEW_ROOT, MntFlags::empty()).context("taking it down again")?;
        anyhow::bail!("{} holds no /sbin/init", device.display());
    }
    Ok(())
}

fn enter(machine: &mut Machine, slot: usize) -> anyhow::Result<Infallible> {
    let new = Path::new(NEW_ROOT);
    let held = Path::new(HELD).join("var");
    let filled = timed("skeleton", || Ok(skeleton::fill(&new.join("usr/share/factory/var"), &held)?));
    match filled {
        Ok(copied) if copied > 0 => tracing::info!(files = copied, "/var filled from the image"),
        Ok(_) => {}
        // An image without a skeleton relies on tmpfiles alone.
        Err(error) => tracing::warn!("/var is not filled from the image: {error:#}"),
    }
    let home = held.join("lib/muster");
    fs::create_dir_all(home.join("etc-rancher"))?;
    machine_id(&home.join("machine-id"))?;
    let node = machine.ours.as_ref().map(|ours| ours.marker.node.to_string()).unwrap_or_default();
    nix::unistd::sethostname(&node).context("setting the host name")?;

    machine.timeline.follow("boot", super::timeline::uptime_ms());
    timed("handover", || handover::write(machine, slot))?;
    // Its task would go on with addresses that are networkd's from now on.
    machine.net = None;
    machine.background = None;

    move_mount(&held, &new.join("var"))?;
    let home = new.join("var/lib/muster");
    bind(&home.join("etc-rancher"), &new.join("etc/rancher"))?;
    bind(&home.join("machine-id"), &new.join("etc/machine-id"))?;
    umount2("/tmp", MntFlags::MNT_DETACH).context("leaving /tmp")?;
    for name in ["proc", "sys", "dev", "run"] {
        move_mount(&Path::new("/").join(name), &new.join(name))?;
    }
    tracing::info!(slot, node, "switching into the installed system");
    switch(new)
}

/// Stays the same for the life of the data partition: DHCP and journald know the machine by it.
fn machine_id(path: &Path) -> anyhow::Result<()> {
    let there = fs::read_to_string(path).is_ok_and(|text| text.trim().len() == 32);
    if there {
        return Ok(());
    }
    let mut luck = [0; 16];
    getrandom::fill(&mut luck).context("making a machine id")?;
    let id: String = Digest::of(&luck).to_string().chars().take(32).collect();
    fs::write(path, format!("{id}\n")).context("writing the machine id")
}

fn move_mount(from: &Path, to: &Path) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} on {}", from.display(), to.display()))
}

/// The initramfs is emptied first: it is memory that nobody could free later.
fn switch(new: &Path) -> anyhow::Result<Infallible> {
    let root = fs::metadata("/").context("looking at the initramfs")?.dev();
    timed("empty", || {
        empty(Path::new("/"), root);
        Ok(())
    })?;
    std::env::set_current_dir(new).context("entering the new root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("moving the new root to /")?;
    nix::unistd::chroot(".").context("making it the root")?;
    std::env::set_current_dir("/").context("entering /")?;
    nix::unistd::execv(c"/sbin/init", &[c"/sbin/init"]).context("starting /sbin/init")
}

/// Removes everything on this one file system. What cannot be removed stays; it is only memory.
fn empty(folder: &Path, device: u64) {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    for path in entries {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        let _kept = if metadata.is_dir() {
            empty(&path, device);
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::{ClusterId, Number};
    use muster_protocol::keys::Fingerprint;
    use muster_protocol::marker::{MarkerState, Slot};

    fn marker(good: bool, tries_left: u8) -> Marker {
        let slot = Slot {
            image: Digest([1; 32]),
            uki: Digest([2; 32]),
            uki_name: "u".into(),
            kernel_release: "6.12".into(),
            written: 1,
            tries_left,
            good,
        };
        Marker {
            sequence: 1,
            cluster: ClusterId([9; 16]),
            node: "mini-pc-1".parse().unwrap(),
            key: Fingerprint([7; 10]),
            order: Number::default(),
            state: MarkerState::Installed,
            slots: [Some(slot), None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    #[test]
    fn a_slot_that_never_came_up_loses_a_try_and_a_good_one_does_not() {
        let tries = |mut marker: Marker, slot| {
            spend_try(&mut marker, slot);
            marker.slots[0].as_ref().map(|slot| slot.tries_left)
        };
        assert_eq!(tries(marker(false, 3), 0), Some(2));
        assert_eq!(tries(marker(false, 0), 0), Some(0));
        assert_eq!(tries(marker(true, 3), 0), Some(3));
        assert_eq!(tries(marker(false, 3), 1), Some(3));
    }

    #[test]
    fn a_machine_id_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine-id");
        machine_id(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 32);
        machine_id(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }
}
