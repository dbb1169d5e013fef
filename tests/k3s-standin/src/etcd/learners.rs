//! k3s's learner management: on the etcd leader, each tick promotes a learner that is in step and evicts one that stalls.
//!
//! Promotion looks at log progress only, so a killed learner is promoted all the same; that is etcd's own doing here.
//! Progress of a learner that cannot be promoted is taken from whether the leader hears it: the real k3s asks the learner's own
//! gRPC port for its applied index.

use crate::base::clock::unix_now;
use crate::base::faults::{Fault, Faults};
use crate::base::log;
use crate::base::version::NUMBERS;
use crate::etcd::gateway::{EtcdError, Gateway};
use crate::etcd::listed::Listed;
use crate::etcd::metrics::active_peers;
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;

const PROGRESS_KEY: &str = "k3s/etcd/learnerProgress";

/// Tick for ever.
pub async fn run(etcd: Rc<Gateway>, faults: Faults) {
    let mut tick = tokio::time::interval(Duration::from_millis(NUMBERS.promotion_tick));
    tick.tick().await;
    loop {
        tick.tick().await;
        if faults.is_on(Fault::PromotionWaits) {
            continue;
        }
        match manage(&etcd, &faults).await {
            Ok(()) => {}
            // not started, or no quorum: the next tick comes
            Err(EtcdError::Http(_)) => {}
            Err(e) => log::error(&format!("Failed to check local etcd status for learner management: {e}")),
        }
    }
}

async fn manage(etcd: &Gateway, faults: &Faults) -> Result<(), EtcdError> {
    let status = etcd.status().await?;
    if status.leader != Some(status.member) {
        return Ok(());
    }
    let members = etcd.members(Duration::from_secs(2)).await?;
    let Some(learner) = members.iter().find(|m| m.learner) else { return Ok(()) };
    if faults.is_on(Fault::LearnerStalls) {
        return track(etcd, learner, false).await;
    }
    match etcd.promote(learner.id).await {
        Ok(()) => {
            log::info(&format!("Promoted learner {}", learner.name));
            Ok(())
        }
        Err(EtcdError::Refused { .. }) => {
            let heard = active_peers().await.contains(&learner.id);
            track(etcd, learner, heard).await
        }
        Err(e) => Err(e),
    }
}

async fn track(etcd: &Gateway, learner: &Listed, heard: bool) -> Result<(), EtcdError> {
    let now = unix_now();
    let kept = etcd.get(PROGRESS_KEY, Duration::from_secs(2)).await?;
    let kept: Value = kept.and_then(|e| serde_json::from_slice(&e.value).ok()).unwrap_or_default();
    let last = match kept["id"].as_u64() {
        Some(id) if id == learner.id && !heard => kept["lastProgress"].as_u64().unwrap_or(now),
        Some(_) | None => now,
    };
    let stalled = now.saturating_sub(last);
    if stalled > NUMBERS.eviction / 1000 {
        etcd.remove(learner.id).await?;
        log::warn(&format!("Removed learner {} from etcd cluster", learner.name));
        return Ok(());
    }
    if stalled > 0 {
        log::warn(&format!("Learner {} stalled for {stalled}s", learner.name));
    }
    let progress = json!({"id": learner.id, "name": learner.name, "lastProgress": last});
    etcd.put(PROGRESS_KEY, progress.to_string().as_bytes()).await
}
