//! Where the etcd binary is: named by K3S_STANDIN_ETCD, beside this binary, or on PATH.

use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum NoEtcd {
    #[error("no etcd binary found\nhint: put one beside the k3s binary, or name it in K3S_STANDIN_ETCD")]
    Missing,
    #[error("etcd {} is {version}; the stand-in needs 3.5.10 or newer (JSON gateway on a port of its own)", path.display())]
    Old { path: PathBuf, version: String },
}

pub fn find(exe_dir: Option<&Path>) -> Result<PathBuf, NoEtcd> {
    if let Some(named) = std::env::var_os("K3S_STANDIN_ETCD").map(PathBuf::from) {
        return if named.is_file() { Ok(named) } else { Err(NoEtcd::Missing) };
    }
    let beside = exe_dir.map(|dir| dir.join("etcd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    beside.into_iter().chain(on_path).find(|p| p.is_file()).ok_or(NoEtcd::Missing)
}

/// `3.5.16`, or `unknown`.
pub fn version(etcd: &Path) -> String {
    let output = Command::new(etcd).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("etcd Version: "));
    line.map_or_else(|| "unknown".to_owned(), |v| v.trim().to_owned())
}

pub fn check(etcd: &Path) -> Result<String, NoEtcd> {
    let version = version(etcd);
    let parts: Vec<u32> = version.split('.').filter_map(|p| p.parse().ok()).collect();
    if parts.as_slice() >= [3, 5, 10].as_slice() {
        Ok(version)
    } else {
        Err(NoEtcd::Old { path: etcd.into(), version })
    }
}
