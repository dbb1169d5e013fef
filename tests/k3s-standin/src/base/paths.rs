//! Where everything lies: k3s's own paths, moved under one root for tests.

use k3s_model::start::DiskFacts;
use std::path::{Path, PathBuf};

pub const DEFAULT_DATA_DIR: &str = "/var/lib/rancher/k3s";

/// All paths of one node.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    pub data: PathBuf,
}

impl Paths {
    /// `root` comes from K3S_STANDIN_ROOT and is put before /etc/rancher, /var/lib/rancher and /run/k3s only.
    pub fn new(root: &Path, data_dir: Option<&str>) -> Self {
        Self { root: root.to_path_buf(), data: rooted(root, data_dir.unwrap_or(DEFAULT_DATA_DIR)) }
    }

    pub fn rooted(&self, path: &str) -> PathBuf {
        rooted(&self.root, path)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.rooted("/etc/rancher/k3s/k3s.yaml")
    }

    pub fn node_password(&self) -> PathBuf {
        self.rooted("/etc/rancher/node/password")
    }

    pub fn server(&self) -> PathBuf {
        self.data.join("server")
    }

    pub fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    pub fn tls(&self) -> PathBuf {
        self.server().join("tls")
    }

    pub fn etcd_tls(&self) -> PathBuf {
        self.tls().join("etcd")
    }

    pub fn db(&self) -> PathBuf {
        self.server().join("db")
    }

    pub fn etcd_db(&self) -> PathBuf {
        self.db().join("etcd")
    }

    pub fn wal(&self) -> PathBuf {
        self.etcd_db().join("member").join("wal")
    }

    pub fn tombstone(&self) -> PathBuf {
        self.etcd_db().join("tombstone")
    }

    pub fn name_file(&self) -> PathBuf {
        self.etcd_db().join("name")
    }

    pub fn state_db(&self) -> PathBuf {
        self.db().join("state.db")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.db().join("snapshots")
    }

    pub fn reset_flag(&self) -> PathBuf {
        self.db().join("reset-flag")
    }

    pub fn containerd(&self) -> PathBuf {
        self.agent().join("etc").join("containerd")
    }

    pub fn balancer_state(&self) -> PathBuf {
        self.agent().join("etc").join("k3s-agent-load-balancer.json")
    }

    /// What the join table looks at.
    pub fn disk_facts(&self) -> DiskFacts {
        let wal = std::fs::read_dir(self.wal());
        DiskFacts {
            wal_dir: wal.is_ok(),
            wal_empty: wal.is_ok_and(|mut files| files.next().is_none()),
            tombstone: self.tombstone().exists(),
            state_db: self.state_db().exists(),
            name_file: std::fs::read_to_string(self.name_file()).ok().map(|n| n.trim().to_owned()),
        }
    }
}

fn rooted(root: &Path, path: &str) -> PathBuf {
    let moved = ["/etc/rancher", "/var/lib/rancher", "/run/k3s"].iter().any(|p| path.starts_with(p));
    match path.strip_prefix('/') {
        Some(rest) if moved => root.join(rest),
        Some(_) | None => PathBuf::from(path),
    }
}

/// Write a file with its mode at once, parents made, by rename: a kill leaves the old or the new one.
pub fn write(path: &Path, mode: u32, contents: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_moves_rancher_s_paths_and_no_other() {
        let paths = Paths::new(Path::new("/tmp/x"), None);
        assert_eq!(paths.wal(), Path::new("/tmp/x/var/lib/rancher/k3s/server/db/etcd/member/wal"));
        assert_eq!(paths.rooted("/etc/resolv.conf"), Path::new("/etc/resolv.conf"));
        let real = Paths::new(Path::new("/"), None);
        assert_eq!(real.kubeconfig(), Path::new("/etc/rancher/k3s/k3s.yaml"));
    }
}
