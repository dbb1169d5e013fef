//! Network namespaces by `ip netns`, named for the process that owns them so that leftovers of a dead run can be told.

use crate::child::run;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

/// The process that owns a run: its id alone may be somebody else's later, with the start time it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    started: u64,
}

impl Owner {
    pub(crate) fn me() -> Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, started: started(pid).context("own start time from /proc")? })
    }

    /// `n` tells several LANs of one process apart.
    pub(crate) fn prefix(self, n: u32) -> String {
        format!("mu{}x{}n{n}", self.pid, self.started)
    }

    /// The owner in a name that `prefix` made; `None` for everybody else's names.
    fn of(name: &str) -> Option<Self> {
        let (pid, rest) = name.strip_prefix("mu")?.split_once('x')?;
        let (started, rest) = rest.split_once('n')?;
        let n = rest.split('-').next()?;
        n.parse::<u32>().ok()?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Start time of a process in clock ticks since boot: field 22 of stat, counted behind the name, which may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A namespace that is there until this is dropped; what still runs in it then is killed.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn make(name: String) -> Result<Self> {
        run(ip(&["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip ARGS` in this namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<String> {
        run(ip(&[&["-n", self.name.as_str()], args].concat()))
    }

    /// A command that will run in this namespace, with the process id of the program itself.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = ip(&["netns", "exec", &self.name]);
        command.arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("lab: namespace {}: {error:#}", self.name);
        }
    }
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

/// Kills what runs in a namespace of ours and removes it.
fn remove(name: &str) -> Result<()> {
    for round in 0_u64..20 {
        // Two runs that start together both find the leftovers of a third: what the other has removed is removed.
        let pids = match run(ip(&["netns", "pids", name])) {
            Err(_) if !Path::new("/run/netns").join(name).exists() => return Ok(()),
            pids => pids?,
        };
        let pids: Vec<i32> = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // not our children any more: there is no event to wait for
        let _ = nix::poll::poll(&mut [], (round * 10).min(200) as u16);
    }
    match run(ip(&["netns", "del", name])) {
        Err(_) if !Path::new("/run/netns").join(name).exists() => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Removes namespaces and socket folders of runs whose process is gone (killed with SIGKILL, host crash).
pub(crate) fn remove_leftovers(sockets: &Path) -> Result<()> {
    let names = run(ip(&["netns", "list"]))?;
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        if Owner::of(name).is_some_and(|owner| !owner.alive()) {
            eprintln!("lab: removing `{name}`, left by a run that is gone");
            remove(name)?;
        }
    }
    for entry in std::fs::read_dir(sockets).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(Owner::of).is_some_and(|owner| !owner.alive()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_found_again_in_the_names_it_made() {
        let me = Owner::me().unwrap();
        assert_eq!(Owner::of(&format!("{}-lan", me.prefix(3))), Some(me));
        assert!(me.alive());
    }

    #[test]
    fn a_process_with_the_same_id_but_another_start_is_not_the_owner() {
        let me = Owner::me().unwrap();
        assert!(!Owner { pid: me.pid, started: me.started + 1 }.alive());
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in ["muprobe-a", "cni-1234", "mu12", "mu12x5", "mu12x5nx-lan", "mux5n1-lan", ""] {
            assert_eq!(Owner::of(name), None, "{name}");
        }
    }
}
