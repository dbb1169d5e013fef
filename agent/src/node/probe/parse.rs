//! Answers of k3s and etcd, read into our types. Pure; the tests replay what a real k3s answered.
//!
//! Ids are u64 above 2^53: bare numbers in `/db/info`, strings in the gateway, hexadecimal in the metrics. Never floats.

use muster_protocol::etcd::{EtcdMember, NodeSeen};
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// `GET /db/info`: the list as etcd has it now, or etcd's own words why not.
pub fn db_info(status: u16, body: &[u8]) -> Result<Vec<EtcdMember>, String> {
    #[derive(Deserialize)]
    struct Info {
        members: Vec<Member>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Member {
        #[serde(rename = "ID")]
        id: Id,
        name: Option<String>,
        #[serde(default, rename = "peerURLs")]
        peer_urls: Vec<String>,
        #[serde(default)]
        is_learner: bool,
    }
    if status != 200 {
        return Err(refusal(status, body));
    }
    let info: Info = serde_json::from_slice(body).map_err(|error| format!("unreadable list: {error}"))?;
    let member = |member: Member| EtcdMember {
        id: member.id.0,
        name: member.name.filter(|name| !name.is_empty()),
        peer: member.peer_urls.first().and_then(|url| url_address(url)),
        learner: member.is_learner,
    };
    Ok(info.members.into_iter().map(member).collect())
}

/// The `message` of a Kubernetes `Status`, else the code.
fn refusal(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(said) => said.message.trim_start_matches("Internal error occurred: ").to_owned(),
        Err(_) => format!("HTTP {status}"),
    }
}

/// The address in `https://10.77.0.11:2380`.
fn url_address(url: &str) -> Option<Ipv4Addr> {
    let host = url.split_once("://")?.1;
    host.split(['/', ':']).next()?.parse().ok()
}

/// `POST /v3/maintenance/status` of the JSON gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdStatus {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Absent (or 0) without a leader, though the answer is HTTP 200.
    pub leader: Option<u64>,
}

pub fn etcd_status(body: &[u8]) -> Option<EtcdStatus> {
    #[derive(Deserialize)]
    struct Answer {
        header: Header,
        leader: Option<Id>,
    }
    #[derive(Deserialize)]
    struct Header {
        cluster_id: Id,
        member_id: Id,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    Some(EtcdStatus {
        cluster_id: answer.header.cluster_id.0,
        member_id: answer.header.member_id.0,
        leader: answer.leader.map(|id| id.0).filter(|id| *id != 0),
    })
}

/// `{"health":"true","reason":""}` on 2381.
pub fn healthy(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Health {
        health: String,
    }
    serde_json::from_slice::<Health>(body).is_ok_and(|answer| answer.health == "true")
}

/// What etcd's metrics on 2381 say of membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    pub member_id: Option<u64>,
    pub learner: bool,
    pub has_leader: bool,
    /// Peers with at least one active connection.
    pub peers: Vec<u64>,
}

pub fn metrics(text: &str) -> Metrics {
    let mut found = Metrics::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        // Counters are printed as floats (`1`, `1e+00`); only zero or not is asked here.
        let set = value.parse::<f64>().is_ok_and(|value| value > 0.0);
        match name {
            "etcd_server_has_leader" => found.has_leader = set,
            "etcd_server_is_learner" => found.learner = set,
            "etcd_server_id" if set => found.member_id = hex_label(labels, "server_id"),
            "etcd_network_active_peers" if set => found.peers.extend(hex_label(labels, "Remote")),
            _other_series => {}
        }
    }
    found.peers.sort_unstable();
    found.peers.dedup();
    found
}

fn hex_label(labels: &str, name: &str) -> Option<u64> {
    let value =
        labels.split(',').find_map(|label| label.trim_start().strip_prefix(name)?.strip_prefix("=\""))?;
    u64::from_str_radix(value.split('"').next()?, 16).ok()
}

/// A NodeList, or one Node, as the API gives them.
pub fn nodes(body: &[u8]) -> Option<Vec<NodeSeen>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<Node>,
    }
    if let Ok(list) = serde_json::from_slice::<List>(body) {
        return Some(list.items.into_iter().filter_map(Node::seen).collect());
    }
    let node: Node = serde_json::from_slice(body).ok()?;
    Some(node.seen().into_iter().collect())
}

/// The names in any list of objects.
pub fn names(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct List {
        /// Go writes an empty list so, too.
        items: Option<Vec<Item>>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    Some(list.items.into_iter().flatten().map(|item| item.metadata.name).collect())
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    node_info: NodeInfo,
    #[serde(default)]
    runtime_handlers: Vec<Handler>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeInfo {
    #[serde(default)]
    kubelet_version: String,
}

#[derive(Deserialize)]
struct Handler {
    #[serde(default)]
    name: String,
}

impl Node {
    /// `None` for a name that no machine of ours can have.
    fn seen(self) -> Option<NodeSeen> {
        let taint = |taint: &Taint| match taint.value.as_str() {
            "" => format!("{}:{}", taint.key, taint.effect),
            value => format!("{}={value}:{}", taint.key, taint.effect),
        };
        let ready = |condition: &Condition| condition.r#type == "Ready" && condition.status == "True";
        Some(NodeSeen {
            name: self.metadata.name.parse().ok()?,
            ready: self.status.conditions.iter().any(ready),
            taints: self.spec.taints.iter().filter(|t| !is_kubernetes_own(&t.key)).map(taint).collect(),
            labels: self.metadata.labels.into_iter().collect(),
            kubelet_version: self.status.node_info.kubelet_version,
            runtime_handlers: self
                .status
                .runtime_handlers
                .into_iter()
                .map(|handler| handler.name)
                .filter(|name| !name.is_empty())
                .collect(),
        })
    }
}

/// Taints that Kubernetes sets and lifts by itself, such as `node.kubernetes.io/not-ready`.
fn is_kubernetes_own(key: &str) -> bool {
    key.starts_with("node.kubernetes.io/") || key.starts_with("node.cloudprovider.kubernetes.io/")
}

/// The version in `k3s --version`'s first line: `k3s version v1.36.3+k3s1 (…)`.
pub fn k3s_version(text: &str) -> Option<String> {
    let rest = text.lines().next()?.strip_prefix("k3s version ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// A u64 as JSON number or as string.
struct Id(u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl de::Visitor<'_> for Either {
            type Value = Id;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an unsigned 64-bit number, bare or as a string")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Id, E> {
                Ok(Id(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Id, E> {
                value.parse().map(Id).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::Cluster;

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/fixtures/k3s/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn a_list_of_three_voters_keeps_every_digit() {
        let members = db_info(200, &fixture("db-info/200-three-voters.json")).unwrap();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        assert_eq!(ids, [3_764_895_192_841_986_418, 5_947_895_447_388_489_993, 10_322_934_327_229_565_649]);
        assert!(members.iter().all(|member| !member.learner));
        assert_eq!(members[0].node(), Some("mini-pc-2"));
        assert_eq!(members[0].peer, Some(Cluster::address(2)));
    }

    #[test]
    fn learners_and_unstarted_members_are_told_apart() {
        let learner = db_info(200, &fixture("db-info/200-learner.json")).unwrap();
        assert_eq!((learner[0].learner, learner[1].learner), (false, true));
        let unstarted = db_info(200, &fixture("db-info/200-unstarted.json")).unwrap();
        assert_eq!((unstarted[1].name.as_deref(), unstarted[1].learner), (None, true));
        assert_eq!(unstarted[1].peer, Some(Cluster::address(2)));
        assert_eq!(db_info(200, &fixture("db-info/200-one.json")).unwrap().len(), 1);
    }

    #[test]
    fn a_refused_list_carries_etcd_s_own_words() {
        for (file, words) in [
            ("500-etcd-not-started", "failed to get etcd MemberList: etcd not started"),
            (
                "500-learner-refuses",
                "failed to get etcd MemberList: etcdserver: rpc not supported for learner",
            ),
            ("500-no-answer-from-etcd", "failed to get etcd MemberList: context deadline exceeded"),
        ] {
            assert_eq!(db_info(500, &fixture(&format!("db-info/{file}.json"))), Err(words.into()));
        }
        let http = fixture("db-info/400-sqlite.http");
        let body = &http[http.iter().position(|c| *c == b'{').unwrap()..];
        assert_eq!(db_info(400, body), Err("etcd datastore disabled".into()));
        assert_eq!(db_info(403, b"<html>"), Err("HTTP 403".into()));
    }

    #[test]
    fn the_gateway_s_status_names_cluster_member_and_leader() {
        let lines = fixture("gateway/status-three-voters.ndjson");
        let statuses: Vec<_> = lines
            .split(|c| *c == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| etcd_status(line).unwrap())
            .collect();
        assert_eq!(statuses.len(), 3);
        for status in &statuses {
            assert_eq!(status.cluster_id, 14_582_655_591_186_328_306);
            assert_eq!(status.leader, Some(3_764_895_192_841_986_418));
        }
        assert_eq!(statuses[0].member_id, 10_322_934_327_229_565_649);
        assert_eq!(etcd_status(&fixture("gateway/status-no-leader.json")).unwrap().leader, None);
        assert_eq!(etcd_status(&fixture("gateway/member-add-unhealthy.json")), None);
    }

    #[test]
    fn health_is_true_only_when_etcd_says_so() {
        assert!(healthy(&fixture("health-2381.json")));
        assert!(!healthy(&fixture("health-2381-no-leader.json")));
        assert!(!healthy(b""));
    }

    #[test]
    fn metrics_name_the_connected_peers() {
        let text = String::from_utf8(fixture("metrics-2381-voter.prom")).unwrap();
        let found = metrics(&text);
        assert_eq!(found.member_id, Some(0x343f_983b_09ec_2172));
        assert!(found.has_leader && !found.learner);
        assert_eq!(found.peers, [0x528b_2b65_66c1_0909, 0x8f42_6e13_ce34_4ad1]);
        let gone = text.replace("Remote=\"528b2b6566c10909\"} 1", "Remote=\"528b2b6566c10909\"} 0");
        assert_eq!(metrics(&gone).peers, [0x8f42_6e13_ce34_4ad1]);
        assert!(metrics("etcd_server_is_learner 1\nrubbish\n{} x").learner);
    }

    #[test]
    fn a_node_object_is_reduced_to_what_is_judged() {
        let server = nodes(&fixture("objects/node-server.json")).unwrap().remove(0);
        assert!(server.ready && server.taints.is_empty());
        assert!(server.kubelet_version.starts_with("v1.36.3"), "{}", server.kubelet_version);
        let worker = nodes(&fixture("objects/node-worker-tainted-kata-files-absent.json")).unwrap().remove(0);
        assert_eq!(worker.taints, ["nvidia.com/gpu=present:NoSchedule"]);
        assert!(worker.runtime_handlers.iter().any(|name| name.starts_with("kata")), "{worker:?}");
        assert!(worker.labels.contains(&("muster.dev/class".into(), "rtx-host".into())));
    }

    #[test]
    fn kubernetes_own_taints_are_left_out_and_bad_names_skipped() {
        let body = br#"{"items":[
            {"metadata":{"name":"a"},"spec":{"taints":[
                {"key":"node.kubernetes.io/not-ready","effect":"NoExecute"},{"key":"x","effect":"NoSchedule"}]}},
            {"metadata":{"name":"Bad_Name"}}]}"#;
        let found = nodes(body).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].taints, ["x:NoSchedule"]);
        assert!(!found[0].ready);
        assert_eq!(nodes(b"[]"), None);
    }

    #[test]
    fn an_empty_list_is_known_to_be_empty_and_rubbish_is_not_known() {
        let list = br#"{"kind":"RuntimeClassList","apiVersion":"node.k8s.io/v1","items":[
            {"metadata":{"name":"nvidia","uid":"x"},"handler":"nvidia"},{"metadata":{"name":"kata-qemu-runtime-rs"}}]}"#;
        assert_eq!(names(list).unwrap(), ["nvidia", "kata-qemu-runtime-rs"]);
        assert_eq!(names(br#"{"items":[]}"#), Some(vec![]));
        assert_eq!(names(br#"{"items":null}"#), Some(vec![]));
        assert_eq!(names(b"<html>"), None);
    }

    #[test]
    fn a_version_line_is_read() {
        assert_eq!(k3s_version("k3s version v1.36.3+k3s1 (stand-in)\ngo"), Some("v1.36.3+k3s1".into()));
        assert_eq!(k3s_version("sh: not found"), None);
    }
}
