//! One power-on of a machine that is a folder: the agent's own boot, up to where the kernel would be asked to reboot or
//! to switch roots. What it came to is told on stdout.
//!
//! Run it in a network namespace of its own. The folder becomes `/` before the agent looks at anything, and it has no
//! sysfs and no devtmpfs: the only disk that can be found is the file in it.

use anyhow::Context;
use muster_agent::init::{End, rehearse};
use muster_agent::log::Log;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let root: PathBuf = std::env::args_os().nth(1).context("which folder is the machine?")?.into();
    enter(&root)?;
    match rehearse(Log::of_pid_1().install())? {
        End::Restart => println!("restart"),
        End::Boot { slots } => println!("boot {slots:?}"),
    }
    println!("wrote {}", written()?);
    Ok(())
}

/// Mounts of this process are its own, and gone with it.
fn enter(root: &Path) -> anyhow::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("taking a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keeping mounts private")?;
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none)
        .context("mounting /proc")?;
    nix::unistd::chroot(root).context("entering the machine's folder")?;
    std::env::set_current_dir("/").context("entering /")
}

/// What this process asked the kernel to write, whereto ever: an installer writes little but its disk.
fn written() -> anyhow::Result<u64> {
    let said = std::fs::read_to_string("/proc/self/io").context("reading its own counters")?;
    let count = said.lines().find_map(|line| line.strip_prefix("wchar: "));
    count.context("no count of bytes written")?.trim().parse().context("reading the count of bytes written")
}
