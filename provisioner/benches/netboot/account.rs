//! Processor time of a server and of all that it starts, as the kernel's control groups count it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A control group of one server; dropping it removes it once it is empty.
pub(super) struct Account {
    folder: PathBuf,
    /// Version 2 counts in `cpu.stat`, version 1 in `cpuacct.usage`.
    unified: bool,
}

impl Account {
    pub(super) fn of(process: u32) -> Self {
        let first = Path::new("/sys/fs/cgroup/cpuacct");
        let unified = !first.exists();
        let parent = if unified { Path::new("/sys/fs/cgroup") } else { first };
        let folder = parent.join(format!("muster-bench-{process}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), process.to_string()).unwrap();
        Self { folder, unified }
    }

    pub(super) fn cpu(&self) -> Duration {
        if !self.unified {
            let nanos = fs::read_to_string(self.folder.join("cpuacct.usage")).unwrap();
            return Duration::from_nanos(nanos.trim().parse().unwrap());
        }
        let text = fs::read_to_string(self.folder.join("cpu.stat")).unwrap();
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        Duration::from_micros(micros.parse().unwrap())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
