//! The installed node's service (`muster-agent node`) and the gate before k3s (`muster-agent k3s-gate`).
//!
//! Nothing in here stops because the provisioner is away: the last manifest stays in force, a member starts k3s by
//! itself, and the LAN is answered. Only what is new needs the provisioner.

use crate::state::{BOOT, Root};
use anyhow::Context;
use tokio::runtime::Runtime;

/// Files by digest from the provisioner.
pub mod fetch;
/// Folders by version, complete or not there.
pub mod versions;

/// Kata in place, before k3s first starts.
pub mod kata;
/// k3s's files in place.
pub mod place;

/// May k3s start, and as what?
pub mod gate;
/// One token.
pub mod token;
/// k3s's tokens, sealed.
pub mod tokens;
/// Starting and watching k3s's unit.
pub mod units;

/// Signed commands, each run once.
pub mod commands;
/// What k3s and etcd answer.
pub mod probe;

/// What a sync brings, believed piece by piece.
pub mod accept;
/// When this server has become a member.
pub mod member;

/// The booted slot is good.
pub mod bless;
/// Our clock beside the provisioner's.
pub mod clock;
/// Hosts, resolv.conf, SSH keys.
pub mod files;
/// The node's status.
pub mod health;
/// Questions from the LAN.
pub mod lan;
/// systemd's notification protocol.
pub mod notify;

/// Everything that lies on the disk before k3s first starts.
pub mod prepare;
/// One round: look, go on, say how it is.
mod round;
/// The loop.
pub mod service;
/// The exchange with the provisioner.
mod sync;
/// The stages of this boot.
mod timeline;
/// When what waits is tried again, and who is told.
mod waits;

pub use round::STATUS;

#[cfg(test)]
pub(crate) mod testing;

/// `muster-agent node`: until SIGTERM.
pub fn run(options: service::Options) -> anyhow::Result<()> {
    runtime()?.block_on(service::run(options))
}

/// `muster-agent k3s-gate`: once, before a start of k3s.
pub fn pass_gate(root: &Root) -> anyhow::Result<()> {
    let papers = gate::Papers::read(root).context("reading this node's papers")?;
    let boot = root.boot(&root.path(BOOT)).context("reading what PID 1 left")?;
    let address = boot.and_then(|boot| boot.address).map(|cidr| cidr.address);
    let pass = gate::pass(root, papers, address, unix_ms() / 1000);
    Ok(runtime()?.block_on(pass)?)
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Threads beside the loop are for files and for the slot: more would only cost memory.
    let runtime = builder.enable_all().max_blocking_threads(3).thread_stack_size(512 << 10).build();
    runtime.context("starting the runtime")
}

/// Unix milliseconds by the system's clock; 0 before 1970.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
