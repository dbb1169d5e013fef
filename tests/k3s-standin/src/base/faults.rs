//! Faults that a test switches on while k3s runs: one name per line in the file `standin-faults` under the data directory.
//!
//! Real k3s has no such file. The names are in [`Fault::name`]; what each does is in docs/stand-in.md.

use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Deleting a Node reports success and removes no member.
    DeleteNodeMisses,
    /// Deleting a Node never ends.
    DeleteNodeHangs,
    /// A joiner was added to the member list and goes no further: its etcd is not started.
    JoinStopsAfterAdd,
    /// The leader's learner management does not tick: a learner stays one.
    PromotionWaits,
    /// The leader takes a learner for one that is not in step and shows no progress.
    LearnerStalls,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::DeleteNodeMisses => "delete-node-misses",
            Self::DeleteNodeHangs => "delete-node-hangs",
            Self::JoinStopsAfterAdd => "join-stops-after-add",
            Self::PromotionWaits => "promotion-waits",
            Self::LearnerStalls => "learner-stalls",
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
