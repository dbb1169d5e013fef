//! Disks for the machines: an NBD server in user space (neither nbd nor device-mapper is in the host's kernel).
//!
//! QEMU reaches a disk by `nbd+unix:///?socket=PATH`. A power cut is: kill QEMU, then `Disk::cut`.

mod counters;
mod file;
#[cfg(test)]
mod model;
mod session;
mod trap;
mod volatile;
mod wire;

pub use counters::Asked;
pub use trap::{Change, Trigger};
pub use volatile::{Cut, Medium, Refusal, SECTOR, Volatile};

use crate::locked;
use crate::luck::Luck;
use anyhow::{Context, Result};
use counters::Counters;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use trap::Trap;

/// How much unflushed data a disk holds before its oldest writes go to the medium by themselves.
pub const CACHE_LIMIT: u64 = 3 << 29;

/// A disk that is served until this is dropped.
#[derive(Debug)]
pub struct Disk {
    socket: PathBuf,
    shared: Arc<Shared<File>>,
    wake: UnixStream,
    listener: Option<JoinHandle<()>>,
}

/// What all clients of one disk share.
#[derive(Debug)]
pub(crate) struct Shared<M> {
    disk: Mutex<Volatile<M>>,
    /// Rises with each power cut; a request of an earlier one is not answered any more.
    epoch: AtomicU64,
    counters: Counters,
    trap: Trap,
    /// A second handle on each connection, to hang up from outside.
    clients: Mutex<BTreeMap<u64, UnixStream>>,
}

impl Disk {
    /// Serves `backing` (made sparse and empty if it is not there) under `socket`.
    pub fn start(socket: &Path, backing: &Path, size: u64, cache_limit: u64) -> Result<Self> {
        let file = file::open(backing, size)?;
        let listener =
            UnixListener::bind(socket).with_context(|| format!("disk socket {}", socket.display()))?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared {
            disk: Mutex::new(Volatile::new(file, size, cache_limit)),
            epoch: AtomicU64::new(0),
            counters: Counters::default(),
            trap: Trap::default(),
            clients: Mutex::new(BTreeMap::new()),
        });
        let thread = std::thread::Builder::new().name("nbd".into()).spawn({
            let shared = shared.clone();
            move || accept(&listener, &woken, &shared)
        })?;
        Ok(Self { socket: socket.into(), shared, wake, listener: Some(thread) })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn asked(&self) -> Asked {
        self.shared.counters.now()
    }

    /// How many changes touched this range, counted by whole MiB (as partitions are laid out).
    pub fn changes_in(&self, range: Range<u64>) -> u64 {
        self.shared.counters.changes_in(range)
    }

    /// From the change that this says yes to on, nobody is answered, until `cut`.
    pub fn set_trap(&self, trigger: Trigger) {
        self.shared.trap.set(trigger);
    }

    /// True once the trap has sprung, false when that took longer than `limit`.
    pub fn wait_trap(&self, limit: Duration) -> Result<bool> {
        self.shared.trap.wait(limit)
    }

    /// Bytes that would be at risk in a power cut now.
    pub fn unflushed(&self) -> u64 {
        self.shared.disk().held()
    }

    /// The power fails. The machine must be dead already; whatever it still had on its way is dropped.
    pub fn cut(&self, seed: u64) -> Result<Cut> {
        let mut disk = self.shared.disk();
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.hang_up();
        self.shared.trap.clear();
        disk.cut(&mut Luck::new(seed)).context("power cut")
    }

    /// Reads from the disk as a client would, for tests that look at what an install left.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.shared.disk().read(at, into).context("reading the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.hang_up();
        self.shared.trap.clear();
        let _ = self.wake.shutdown(Shutdown::Both);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl<M: Medium> Shared<M> {
    pub(crate) fn disk(&self) -> MutexGuard<'_, Volatile<M>> {
        locked(&self.disk)
    }

    /// Runs `work` on the disk unless the power was cut since this client came.
    pub(crate) fn at_epoch<T>(
        &self,
        epoch: u64,
        work: impl FnOnce(&mut Volatile<M>, &Counters) -> T,
    ) -> Option<T> {
        let mut disk = self.disk();
        (self.epoch.load(Ordering::SeqCst) == epoch).then(|| work(&mut disk, &self.counters))
    }

    fn hang_up(&self) {
        for (_, client) in std::mem::take(&mut *locked(&self.clients)) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Takes clients until the other end of `woken` is closed; each has a thread, joined here at the end.
fn accept(listener: &UnixListener, woken: &UnixStream, shared: &Arc<Shared<File>>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 0.. {
        let mut fds =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => break,
        }
        if fds[1].any().unwrap_or(true) {
            break;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let Ok(copy) = stream.try_clone() else { continue };
        let epoch = shared.epoch.load(Ordering::SeqCst);
        locked(&shared.clients).insert(number, copy);
        threads.retain(|thread| !thread.is_finished());
        let shared = shared.clone();
        let client = std::thread::Builder::new().name("nbd-client".into()).spawn(move || {
            let mut stream = stream;
            if let Err(error) = session::serve(&mut stream, &shared, epoch) {
                eprintln!("lab: disk client: {error:#}");
            }
            locked(&shared.clients).remove(&number);
        });
        threads.extend(client.ok());
    }
    shared.hang_up();
    for thread in threads {
        let _ = thread.join();
    }
}
