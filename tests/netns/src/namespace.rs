//! One network namespace, and what runs in it.

use crate::program::said;
use anyhow::{Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Where `ip netns` keeps names.
pub(crate) const FOLDER: &str = "/run/netns";

/// Rounds of killing, 200 ms each for the most part: what still lives after them waits for a disk.
const ROUNDS: u64 = 150;

/// A namespace with `lo` up. It is there until the last copy of this is dropped; what still runs in it then is killed.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Name>);

#[derive(Debug)]
struct Name(String);

impl Netns {
    /// The name begins with what `unique` made.
    pub fn make(name: String) -> Result<Self> {
        said(&mut ip(&["netns", "add", &name]))?;
        let netns = Self(Arc::new(Name(name)));
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.0.0
    }

    /// `ip ARGS` in this namespace.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        said(&mut ip(&[&["-n", self.name()], args].concat()))
    }

    /// A command that will run in this namespace, with the process id of the program itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = ip(&["netns", "exec", self.name()]);
        command.arg(program);
        command
    }

    /// Runs `work` on a thread that is in this namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(Path::new(FOLDER).join(self.name()));
        thread::spawn(move || {
            let entered = namespace.and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
            entered.expect("whoever made it is root and may enter it");
            work()
        })
    }

    /// The processes in it. One that has ended is not among them, though nobody has waited for it yet; nor is a
    /// process of which only a thread is in here.
    pub fn pids(&self) -> Result<Vec<i32>> {
        pids(self.name())
    }

    /// `kill -9` of everything in it, until nothing is left: a power cut.
    pub fn kill_all(&self) -> Result<()> {
        kill_all(self.name())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("namespace {}: {error:#}", self.0);
        }
    }
}

/// Kills what runs in a namespace and removes it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let ended = kill_all(name);
    match said(&mut ip(&["netns", "del", name])) {
        Err(error) if exists(name) => Err(error),
        Ok(_) | Err(_) => ended,
    }
}

fn kill_all(name: &str) -> Result<()> {
    for round in 0..ROUNDS {
        let pids = pids(name)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Not our children, most of them: there is no event to wait for.
        let _timeout = nix::poll::poll(&mut [], (round * 10).min(200) as u16);
    }
    bail!("killed, and do not end: {:?}", pids(name)?)
}

fn pids(name: &str) -> Result<Vec<i32>> {
    match said(&mut ip(&["netns", "pids", name])) {
        // Two runs that start together both find the leftovers of a third: what the other has removed is removed.
        Err(_) if !exists(name) => Ok(Vec::new()),
        listed => Ok(listed?.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
    }
}

fn exists(name: &str) -> bool {
    Path::new(FOLDER).join(name).exists()
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Child, Stdio};

    /// A program that would run for long, and is in the namespace by now.
    pub(crate) fn sleeper(host: &Netns) -> Child {
        let mut command = host.command("sh");
        let mut child =
            command.args(["-c", "echo up; exec sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        child
    }
}
