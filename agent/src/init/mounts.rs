//! The kernel's file systems, before anything else can be read.

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const QUIETER: MsFlags = QUIET.union(MsFlags::MS_NOEXEC);

const MOUNTS: &[Mount] = &[
    Mount { kind: "proc", at: "/proc", flags: QUIETER, data: "" },
    Mount { kind: "sysfs", at: "/sys", flags: QUIETER, data: "" },
    Mount { kind: "devtmpfs", at: "/dev", flags: MsFlags::MS_NOSUID, data: "mode=0755" },
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: MsFlags::MS_NOSUID,
        data: "mode=0620,ptmxmode=0666,gid=5",
    },
    Mount { kind: "tmpfs", at: "/dev/shm", flags: QUIET, data: "mode=1777" },
    // Not noexec: the node service's program lies here.
    Mount { kind: "tmpfs", at: "/run", flags: QUIET, data: "mode=0755" },
    Mount { kind: "tmpfs", at: "/tmp", flags: QUIET, data: "mode=1777" },
];

pub(super) fn mount_all() -> anyhow::Result<()> {
    for one in MOUNTS {
        fs::create_dir_all(one.at).with_context(|| format!("making {}", one.at))?;
        match mount(Some(one.kind), one.at, Some(one.kind), one.flags, Some(one.data)) {
            // Mounted by the kernel (CONFIG_DEVTMPFS_MOUNT) or by an earlier try.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mounting {} on {}", one.kind, one.at)),
        }
    }
    // The kernel lets a program write ten lines in five seconds by default; a boot has more to say. The newline is
    // needed, and a `printk.devkmsg=` on the command line wins over us: then lines are lost, nothing else.
    let _limited = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    Ok(())
}

/// Where UEFI has variables. The module may be missing and the firmware may have none: both are normal.
pub(super) fn mount_efivars() -> anyhow::Result<()> {
    let at = "/sys/firmware/efi/efivars";
    if !Path::new(at).is_dir() {
        return Ok(());
    }
    match mount(Some("efivarfs"), at, Some("efivarfs"), QUIETER, None::<&str>) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(error).context("mounting the firmware's variables"),
    }
}
