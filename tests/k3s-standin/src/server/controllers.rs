//! What a ready server does again and again: watch the quorum, call silent Nodes unknown, carry out deletions of Nodes.
//!
//! The Node life cycle is judged where the etcd leader is, member removal where the lease `kube-system/k3s-etcd` is held (45 s,
//! so that a removal waits that long when the dead server held it).

use crate::api::objects::{self, ObjectError};
use crate::base::clock::{rfc3339, unix_now};
use crate::base::faults::Fault;
use crate::base::log;
use crate::base::version::NUMBERS;
use crate::etcd::gateway::EtcdError;
use crate::server::state::{End, K3s, Phase};
use k3s_model::texts;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(2);
/// Whether there is a quorum is asked in every round, all else in every third, and at once after a deletion or a failure: in
/// emulated machines each request to etcd is felt.
const ALL_EACH: u32 = 3;
const LIMIT: Duration = Duration::from_secs(2);
const LEASE_SECONDS: u64 = 45;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/k3s-etcd";
const HEARTBEATS: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
pub const ETCD_LABEL: &str = "node-role.kubernetes.io/etcd";
pub const NAME_ANNOTATION: &str = "etcd.k3s.cattle.io/node-name";
pub const ADDRESS_ANNOTATION: &str = "etcd.k3s.cattle.io/node-address";
const REMOVED_ANNOTATION: &str = "etcd.k3s.cattle.io/removed-node-name";

/// What a lease or heartbeat said, and when we saw it change: wall clocks of other machines are not believed.
type Seen = BTreeMap<String, (String, Instant)>;

pub async fn run(k3s: Rc<K3s>) {
    let mut heartbeats = Seen::new();
    let mut lease = Seen::new();
    let mut rounds = 0;
    loop {
        let all = u32::is_multiple_of(rounds, ALL_EACH);
        let round = match all {
            true => round(&k3s, &mut heartbeats, &mut lease).await,
            false => objects::list(&k3s.store, LEASES, LIMIT).await.map(drop),
        };
        rounds = if round.is_ok() { rounds.wrapping_add(1) } else { 0 };
        match round {
            Ok(()) => k3s.quorum_seen.set(Instant::now()),
            Err(ObjectError::Etcd(EtcdError::Http(_) | EtcdError::Refused { .. })) => {}
            Err(e) => log::error(&format!("controllers: {e}")),
        }
        if k3s.quorum_seen.get().elapsed() >= Duration::from_millis(NUMBERS.quorum_exit) {
            return k3s.end(End::Fatal(texts::LEADERELECTION_LOST.to_owned()));
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = k3s.nudge.notified() => rounds = 0,
        }
    }
}

async fn round(k3s: &K3s, heartbeats: &mut Seen, lease: &mut Seen) -> Result<(), ObjectError> {
    let nodes = objects::list(&k3s.store, "/api/v1/nodes", LIMIT).await?;
    if hold_lease(k3s, lease).await? {
        for node in nodes.iter().filter(|n| !n["metadata"]["deletionTimestamp"].is_null()) {
            finish_deletion(k3s, node).await?;
        }
    }
    let leads = match k3s.phase.get() {
        Phase::Sqlite => true,
        Phase::NotStarted | Phase::Lingering => false,
        Phase::Etcd => {
            let status = k3s.gateway.status().await?;
            status.leader == Some(status.member)
        }
    };
    if leads {
        call_silent_nodes_unknown(k3s, &nodes, heartbeats).await?;
    }
    Ok(())
}

/// Hold or take the lease. The holder shown is the host name, as on a real k3s; the node name beside it tells hosts apart that
/// share one.
async fn hold_lease(k3s: &K3s, seen: &mut Seen) -> Result<bool, ObjectError> {
    let host = crate::kubelet::machine::hostname();
    let now = rfc3339(unix_now());
    let wanted = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "k3s-etcd", "namespace": "kube-system", "annotations": {"stand-in/node": k3s.node}},
        "spec": {"holderIdentity": host, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    });
    let live = match objects::get(&k3s.store, LEASE).await {
        Ok(live) => live,
        Err(ObjectError::NotFound) => {
            return match objects::create(&k3s.store, LEASE, wanted).await {
                Ok(_) => Ok(true),
                Err(ObjectError::Exists) => Ok(false),
                Err(e) => Err(e),
            };
        }
        Err(e) => return Err(e),
    };
    let mine = live["metadata"]["annotations"]["stand-in/node"] == k3s.node.as_str();
    let silent = silent_for(seen, "k3s-etcd", &live["spec"].to_string());
    if !mine && silent < Duration::from_secs(LEASE_SECONDS) {
        return Ok(false);
    }
    // renewing at each round would be a write every two seconds for nothing
    let fresh = mine && silent < Duration::from_secs(10);
    if !fresh {
        let key = objects::key(LEASE);
        let revision = live["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0);
        return Ok(k3s.store.put_if(&key, &wanted.to_string(), revision).await?);
    }
    Ok(true)
}

fn silent_for(seen: &mut Seen, name: &str, says: &str) -> Duration {
    match seen.get(name) {
        Some((said, since)) if said == says => since.elapsed(),
        Some(_) | None => {
            seen.insert(name.to_owned(), (says.to_owned(), Instant::now()));
            Duration::ZERO
        }
    }
}

/// What k3s's member controller does to a Node that is being deleted.
#[derive(Debug, PartialEq, Eq)]
enum Removal {
    /// No etcd label, or removed by annotation before: the Node goes, no member does.
    Skip,
    /// Label without annotations: Terminating for ever.
    Stuck,
    Member {
        name: String,
        address: String,
    },
}

fn removal(node: &Value) -> Removal {
    let annotation = |key: &str| node["metadata"]["annotations"][key].as_str().filter(|v| !v.is_empty());
    if node["metadata"]["labels"][ETCD_LABEL] != "true" || annotation(REMOVED_ANNOTATION).is_some() {
        return Removal::Skip;
    }
    match (annotation(NAME_ANNOTATION), annotation(ADDRESS_ANNOTATION)) {
        (Some(name), Some(address)) => Removal::Member { name: name.to_owned(), address: address.to_owned() },
        (_, _) => Removal::Stuck,
    }
}

async fn finish_deletion(k3s: &K3s, node: &Value) -> Result<(), ObjectError> {
    if k3s.faults.is_on(Fault::DeleteNodeHangs) {
        return Ok(());
    }
    let node_name = node["metadata"]["name"].as_str().unwrap_or_default();
    match removal(node) {
        Removal::Skip => {}
        Removal::Stuck => {
            log::error(&format!("cannot remove etcd member of {node_name}: node has no etcd annotations"));
            return Ok(());
        }
        Removal::Member { name, address } => {
            if !k3s.faults.is_on(Fault::DeleteNodeMisses) {
                remove_peer(k3s, &name, &address).await?;
            }
        }
    }
    let path = format!("/api/v1/nodes/{node_name}");
    k3s.store.delete(&objects::key(&path)).await?;
    k3s.store.delete(&objects::key(&crate::kubelet::password::path(node_name))).await?;
    k3s.store.delete(&objects::key(&format!("{HEARTBEATS}/{node_name}"))).await?;
    Ok(())
}

/// Name AND address must match; nothing found is success. The leadership is moved away first.
async fn remove_peer(k3s: &K3s, name: &str, address: &str) -> Result<(), EtcdError> {
    let members = k3s.gateway.members(LIMIT).await?;
    let found =
        members.iter().find(|m| m.name == name && k3s_model::config::url_host(m.peer_url()) == address);
    let Some(member) = found else { return Ok(()) };
    log::info_with(
        "Removing etcd member from cluster due to node delete",
        &[("address", address), ("name", name)],
    );
    let status = k3s.gateway.status().await?;
    if status.leader == Some(member.id) && status.member == member.id {
        // handed on without asking for the receiver's health, as k3s does
        if let Some(other) = members.iter().find(|m| m.id != member.id && !m.learner) {
            k3s.gateway.transfer_leadership(other.id).await?;
        }
    }
    k3s.gateway.remove(member.id).await
}

/// Ready turns Unknown when the heartbeat has not changed for 45 s. `EtcdIsVoter` is not touched: on a dead server it stays True.
async fn call_silent_nodes_unknown(k3s: &K3s, nodes: &[Value], seen: &mut Seen) -> Result<(), ObjectError> {
    let leases = objects::list(&k3s.store, HEARTBEATS, LIMIT).await?;
    for node in nodes {
        let Some(name) = node["metadata"]["name"].as_str() else { continue };
        let lease = leases.iter().find(|l| l["metadata"]["name"] == name);
        let says = lease.map_or_else(String::new, |l| l["spec"]["renewTime"].to_string());
        let silent = silent_for(seen, name, &says);
        let unknown = ready_status(node) == Some("Unknown");
        if silent >= Duration::from_millis(NUMBERS.node_grace) && !unknown {
            let now = rfc3339(unix_now());
            objects::update(&k3s.store, &format!("/api/v1/nodes/{name}"), |node| {
                set_condition(
                    node,
                    &json!({
                        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                        "message": "Kubelet stopped posting node status.", "lastTransitionTime": now,
                    }),
                );
            })
            .await?;
        }
    }
    Ok(())
}

pub fn ready_status(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

/// Put a condition in the place of the one of its type.
pub fn set_condition(node: &mut Value, condition: &Value) {
    let conditions = &mut node["status"]["conditions"];
    let mut all: Vec<Value> = conditions.as_array().cloned().unwrap_or_default();
    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => *old = condition.clone(),
        None => all.push(condition.clone()),
    }
    *conditions = Value::Array(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded_server() -> Value {
        serde_json::from_str(include_str!("../../fixtures/objects/node-server.json")).unwrap()
    }

    #[test]
    fn the_recorded_server_node_names_its_member() {
        let want = Removal::Member { name: "mini-pc-1-4b786ce8".into(), address: "10.99.0.11".into() };
        assert_eq!(removal(&recorded_server()), want);
    }

    #[test]
    fn a_node_without_the_etcd_label_is_skipped() {
        let mut node = recorded_server();
        node["metadata"]["labels"][ETCD_LABEL] = Value::Null;
        assert_eq!(removal(&node), Removal::Skip);
    }

    #[test]
    fn a_left_over_annotation_of_an_earlier_removal_is_a_miss() {
        let mut node = recorded_server();
        node["metadata"]["annotations"][REMOVED_ANNOTATION] = json!("mini-pc-1-00000000");
        assert_eq!(removal(&node), Removal::Skip);
    }

    #[test]
    fn a_label_without_annotations_is_stuck() {
        let mut node = recorded_server();
        node["metadata"]["annotations"][NAME_ANNOTATION] = Value::Null;
        assert_eq!(removal(&node), Removal::Stuck);
    }

    #[test]
    fn a_condition_takes_the_place_of_its_type() {
        let mut node = recorded_server();
        set_condition(&mut node, &json!({"type": "Ready", "status": "Unknown"}));
        assert_eq!(ready_status(&node), Some("Unknown"));
        assert_eq!(node["status"]["conditions"].as_array().unwrap().len(), 5);
    }
}
