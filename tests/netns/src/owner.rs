//! Names that tell whose they are, so that leftovers of a dead run can be told from what a living one needs.

use crate::namespace;
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// A beginning for names that no other process has, and no other call in this one.
pub fn unique() -> Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Ok(Owner::me()?.prefix(COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Removes namespaces of runs whose process is gone (killed with SIGKILL, host crash), and what runs in them.
pub fn remove_leftovers() -> Result<()> {
    for name in leftovers(Path::new(namespace::FOLDER)) {
        eprintln!("removing namespace `{name}`, left by a run that is gone");
        namespace::remove(&name)?;
    }
    Ok(())
}

/// Removes the folders in `parent` that runs left whose process is gone.
pub fn remove_folders(parent: &Path) {
    for name in leftovers(parent) {
        // Another run that starts now may be faster.
        let _gone = std::fs::remove_dir_all(parent.join(name));
    }
}

fn leftovers(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| Owner::of(name).is_some_and(|owner| !owner.alive())).collect()
}

/// The process that owns a run: its id alone may be somebody else's later, with the start time it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    pid: u32,
    started: u64,
}

impl Owner {
    fn me() -> Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, started: started(pid).context("own start time from /proc")? })
    }

    fn prefix(self, n: u32) -> String {
        format!("mu{}x{}n{n}", self.pid, self.started)
    }

    /// The owner in a name that begins with what `prefix` made; `None` for everybody else's names.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::tests::sleeper;
    use crate::{Netns, able};
    use std::process::{Child, Command};

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

    #[test]
    fn two_calls_get_two_names() {
        assert_ne!(unique().unwrap(), unique().unwrap());
    }

    /// A run that can be killed, as far as names know.
    fn run() -> (Child, Owner) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: started(child.id()).unwrap() };
        (child, owner)
    }

    fn kill(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn folders_go_when_their_run_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let (child, owner) = run();
        let [left, mine, foreign] =
            [owner.prefix(0), unique().unwrap(), "else".into()].map(|name| parent.path().join(name));
        for folder in [&left, &mine, &foreign] {
            std::fs::create_dir_all(folder.join("full")).unwrap();
        }
        remove_folders(parent.path());
        assert!(left.exists(), "its run lives");
        kill(child);
        remove_folders(parent.path());
        assert!(!left.exists() && mine.exists() && foreign.exists());
    }

    #[test]
    fn a_namespace_goes_with_what_runs_in_it_when_its_run_is_gone() {
        if !able(&[]) {
            return;
        }
        let (child, owner) = run();
        let name = format!("{}-lan", owner.prefix(0));
        let left = Netns::make(name.clone()).unwrap();
        let mut sleeper = sleeper(&left);
        remove_leftovers().unwrap();
        assert!(Path::new(namespace::FOLDER).join(&name).exists(), "its run lives");
        kill(child);
        remove_leftovers().unwrap();
        assert!(!Path::new(namespace::FOLDER).join(&name).exists());
        assert!(!sleeper.wait().unwrap().success());
    }
}
