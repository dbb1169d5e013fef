//! The stages of this boot, kept in tmpfs so that a restart of the service does not forget them.

use crate::console;
use crate::state::{Boot, Root};
use muster_protocol::ids::InstanceId;
use muster_protocol::status::Stage;
use serde::{Deserialize, Serialize};

const STAGES: &str = "/run/muster/stages";

/// What is remembered of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timeline {
    boot: InstanceId,
    stages: Vec<Stage>,
    /// When Kata was first seen in place, in milliseconds since kernel start.
    pub(super) kata_in_place_ms: Option<u64>,
    /// When k3s's unit was started by us.
    pub(super) started_k3s_ms: Option<u64>,
}

impl Timeline {
    /// Goes on where an earlier process of this boot left off, else where PID 1 did.
    pub(super) fn go_on(root: &Root, boot: &Boot) -> Self {
        let kept = root.read(STAGES).ok().flatten();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        kept.filter(|kept| kept.boot == boot.boot).unwrap_or_else(|| Self {
            boot: boot.boot,
            stages: boot.stages.clone(),
            kata_in_place_ms: None,
            started_k3s_ms: None,
        })
    }

    pub(super) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    pub(super) fn has(&self, step: &str) -> bool {
        self.stages.iter().any(|stage| stage.step == step)
    }

    /// When the stage was over.
    pub(super) fn end_of(&self, step: &str) -> Option<u64> {
        self.stages.iter().find(|stage| stage.step == step).map(|stage| stage.started_ms + stage.ms)
    }

    /// Each stage happens once a boot.
    pub(super) fn add(&mut self, root: &Root, step: &str, started_ms: u64, now_ms: u64) {
        if self.has(step) {
            return;
        }
        let ms = now_ms.saturating_sub(started_ms);
        tracing::info!(step, ms, "stage done");
        console::say(root.as_path(), &format!("step {step} done in {ms} ms"));
        self.stages.push(Stage { step: step.into(), started_ms, ms, bytes: None });
        self.keep(root);
    }

    pub(super) fn keep(&self, root: &Root) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = root.write_if_other(STAGES, &text, 0o600) {
            tracing::warn!(%error, "the stages of this boot will be forgotten by a restart");
        }
    }
}

/// Said where the work of a stage begins, in the words of PID 1's steps.
pub(super) fn begins(root: &Root, step: &str) {
    console::say(root.as_path(), &format!("step {step} begins"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{a_boot, scratch};

    #[test]
    fn a_restarted_service_goes_on_and_another_boot_begins_anew() {
        let root = scratch();
        let mut timeline = Timeline::go_on(&root, &a_boot());
        timeline.add(&root, "node", 10, 30);
        timeline.add(&root, "node", 10, 99);
        let again = Timeline::go_on(&root, &a_boot());
        assert_eq!(again, timeline);
        assert_eq!(again.end_of("node"), Some(30));
        let next_boot = Boot { boot: InstanceId([7; 8]), ..a_boot() };
        assert!(!Timeline::go_on(&root, &next_boot).has("node"));
    }
}
