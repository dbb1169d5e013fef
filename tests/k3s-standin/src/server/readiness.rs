//! From "etcd runs" to READY=1: voter, leader known, listed under our name and URL, API open, Node labelled.

use crate::base::{log, notify};
use crate::etcd::config::Member;
use crate::etcd::gateway::EtcdError;
use crate::server::state::{End, K3s};
use k3s_model::texts;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(500);
const SAY_EACH: u32 = 10;

/// k3s's `Test()`: a voter, and listed with our name and peer URL.
async fn test(k3s: &K3s) -> Result<(), String> {
    let status = k3s.gateway.status().await.map_err(|e| e.to_string())?;
    if status.learner {
        return Err(texts::STILL_LEARNER.to_owned());
    }
    if status.leader.is_none() {
        return Err(texts::NO_LEADER.to_owned());
    }
    let members = k3s.gateway.members(Duration::from_secs(2)).await.map_err(|e| e.to_string())?;
    let name = k3s.member_name.borrow().clone();
    let me = Member { name: &name, ip: &k3s.ip, metrics_on_node_ip: false, debug: false };
    if members.iter().any(|m| m.name == name && m.peer_url() == me.peer_url()) {
        return Ok(());
    }
    let found: Vec<String> = members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    Err(format!(
        "this server is not a member of the etcd cluster. Found [{}], expect: {name}={}",
        found.join(" "),
        me.peer_url()
    ))
}

/// Wait until etcd's readiness test passes; true when it did, false when the process has to end.
pub async fn wait_for_voter(k3s: &Rc<K3s>) -> bool {
    let limit = Duration::from_millis(crate::base::version::NUMBERS.api_wait);
    let since = Instant::now();
    let mut said = 0u32;
    loop {
        watch_listing(k3s).await;
        match test(k3s).await {
            Ok(()) => return true,
            Err(why) if said.is_multiple_of(SAY_EACH) => {
                log::info(&format!("Failed to test etcd connection: {why}"));
            }
            Err(_) => {}
        }
        said += 1;
        if since.elapsed() > limit {
            k3s.end(End::Shutdown(texts::API_NOT_READY.to_owned()));
            return false;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// A process that hears a leader is a member of the cluster, learner or not: what decides between tombstone and staying when a
/// removal is found.
async fn watch_listing(k3s: &K3s) {
    match k3s.gateway.status().await {
        Ok(status) if status.leader.is_some() => k3s.listed.set(true),
        Ok(_)
        | Err(EtcdError::Refused { .. } | EtcdError::Http(_) | EtcdError::Pki(_) | EtcdError::Odd(_)) => {}
    }
}

/// Everything is there: tell the service manager.
pub fn announce(k3s: &K3s) {
    k3s.quorum_seen.set(Instant::now());
    log::info("k3s is up and running");
    notify::ready();
}
