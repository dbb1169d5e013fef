//! Where things are below the state directory (`--state DIR`, `MUSTER_STATE`, `/var/lib/muster-provisioner`).

use std::path::{Path, PathBuf};

pub const DEFAULT: &str = "/var/lib/muster-provisioner";
pub(super) const TRUST: &str = "trust";

#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// A key's file: `root`, `online` or `recovery`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.keys().join(format!("{name}.key"))
    }

    pub fn delegation(&self) -> PathBuf {
        self.keys().join("delegation")
    }

    pub fn trust(&self) -> PathBuf {
        self.0.join(TRUST)
    }

    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }
}
