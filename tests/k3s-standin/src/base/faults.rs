//! Faults that a test switches on while k3s runs: one name per line in the file `standin-faults` under the data directory.
//!
//! Real k3s has no such file. Known names: `delete-node-misses` (k3s#12908), `delete-node-hangs`.

use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Deleting a Node reports success and removes no member.
    DeleteNodeMisses,
    /// Deleting a Node never ends.
    DeleteNodeHangs,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::DeleteNodeMisses => "delete-node-misses",
            Self::DeleteNodeHangs => "delete-node-hangs",
        }
    }
}

pub struct Faults {
    file: PathBuf,
}

impl Faults {
    pub fn of(data_dir: &Path) -> Self {
        Self { file: data_dir.join("standin-faults") }
    }

    pub fn is_on(&self, fault: Fault) -> bool {
        std::fs::read_to_string(&self.file)
            .is_ok_and(|text| text.lines().any(|line| line.trim() == fault.name()))
    }
}
