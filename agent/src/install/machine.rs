//! The real machine around an install: devices, provisioner, firmware, mke2fs. Edges only; every path is below a root.

use super::blockdev::BlockDevice;
use super::bootentry::Variables;
use super::busy;
use super::choose::Candidate;
use super::disk::Disk;
use super::efivars::{self, Efivars};
use super::fetch::{Http, Source};
use super::mkdata::{self, DataError};
use super::plan::Part;
use super::run::Env;
use super::seed::Seed;
use muster_protocol::inventory;
use muster_protocol::sync::{Claim, ClaimAnswer};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What PID 1 lends: its conversation with the provisioner, detection, and the way out.
pub trait Caller {
    fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, String>;
    /// The disks of this machine, detected anew at each call.
    fn disks(&mut self) -> Vec<inventory::Disk>;
    fn reboot(&mut self) -> io::Result<()>;
}

pub struct Machine<C> {
    /// `/`, or a folder in a test.
    root: PathBuf,
    caller: C,
    artifacts: Http,
    variables: Option<Efivars>,
}

impl<C: Caller> Machine<C> {
    /// `artifacts` is the provisioner's HTTP port.
    pub fn new(root: PathBuf, artifacts: SocketAddr, caller: C) -> Self {
        let variables = Efivars::at(&root, efivars::GLOBAL);
        Self { root, caller, artifacts: Http::new(artifacts), variables }
    }
}

/// Threads for [`super::run::Job::workers`]: one per processor, but no more than memory for their frames allows.
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(4))
}

impl<C: Caller> Env for Machine<C> {
    fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, String> {
        self.caller.claim(claim)
    }

    fn disks(&mut self) -> Vec<Candidate> {
        let disks = self.caller.disks();
        let candidate =
            |disk: inventory::Disk| Candidate { in_use: busy::in_use(&self.root, &disk.name), disk };
        disks.into_iter().map(candidate).collect()
    }

    fn open(&mut self, candidate: &Candidate) -> io::Result<Box<dyn Disk>> {
        let path = self.root.join("dev").join(&candidate.disk.name);
        Ok(Box::new(BlockDevice::exclusive(&path, candidate.disk.logical_block_bytes)?))
    }

    fn source(&mut self) -> &mut dyn Source {
        &mut self.artifacts
    }

    fn make_data(&mut self, disk: &mut dyn Disk, part: &Part, seeds: &[Seed]) -> Result<(), DataError> {
        // PID 1 mounts a tmpfs on /run: the node key's copy never leaves memory.
        let stage = self.root.join("run/muster-seed");
        let mke2fs = ["bin/mke2fs", "sbin/mke2fs", "usr/sbin/mke2fs"].map(|path| self.root.join(path));
        let mke2fs = mke2fs.iter().find(|path| path.exists()).unwrap_or(&mke2fs[0]);
        mkdata::make(disk, part, seeds, mke2fs, &stage)
    }

    fn variables(&mut self) -> Option<&mut dyn Variables> {
        self.variables.as_mut().map(|variables| variables as &mut dyn Variables)
    }

    fn uptime_ms(&self) -> u64 {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        time.map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            seconds * 1000 + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
        })
    }

    fn reboot(&mut self) -> io::Result<()> {
        self.caller.reboot()
    }
}
