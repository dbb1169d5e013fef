//! What this node sees of k3s and etcd: its own loopback in full, every other member from outside. Facts only.

/// One request, bounded in time and size.
pub mod ask;
/// Answers into types.
pub mod parse;

use ask::{Answer, Ask, AskError, anyone, only};
use muster_protocol::etcd::{EtcdMember, Identity, NodeSeen, Outside, OwnMember, SnapshotTaken};
use muster_protocol::ids::{Digest, NodeName};
use rustls::ClientConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::state::Root;

const API: u16 = 6443;
const BALANCER: u16 = 6444;
const PEER: u16 = 2380;
const METRICS: u16 = 2381;
const GATEWAY: u16 = 2382;
const TLS: &str = "/var/lib/rancher/k3s/server/tls";
const AGENT: &str = "/var/lib/rancher/k3s/agent";
const RUNTIME_CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const SNAPSHOTS: &str = "/var/lib/rancher/k3s/server/db/snapshots";

/// "Connected" means in two scrapes at least this far apart (design §8).
const CONNECTED_MS: u64 = 5000;
/// etcd logs each connection without a certificate: so often is it asked by a node that has none.
const UNCERTIFIED_MS: u64 = 10_000;
/// RuntimeClasses are asked for this often. Whoever puts a missing one back waits longer between two tries than this, so
/// that an answer from before the last try never asks for the next.
const CLASSES_MS: u64 = 30_000;

/// What our own loopback said in one round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnSeen {
    pub member: Option<OwnMember>,
    /// `None` when the API server did not list them.
    pub nodes: Option<Vec<NodeSeen>>,
    /// Likewise.
    pub runtime_classes: Option<Vec<String>>,
}

/// What is asked of our own API server in one round, besides whether it is ready.
#[derive(Debug, Clone, Copy)]
struct Due {
    nodes: bool,
    classes: bool,
}

/// What it answered.
#[derive(Debug, Default)]
struct Api {
    ready: bool,
    nodes: Option<Vec<NodeSeen>>,
    runtime_classes: Option<Vec<String>>,
}

/// Asks, and remembers since when each peer was connected.
pub struct Prober {
    root: Root,
    anyone: Arc<ClientConfig>,
    connected: Connected,
    nodes_due_ms: u64,
    classes_due_ms: u64,
    /// When a peer port was looked at without a certificate, and what was found.
    peer_ports: BTreeMap<Ipv4Addr, (u64, bool)>,
}

impl Prober {
    pub fn new(root: Root) -> Result<Self, AskError> {
        Ok(Self {
            root,
            anyone: anyone(None)?,
            connected: Connected::default(),
            nodes_due_ms: 0,
            classes_due_ms: 0,
            peer_ports: BTreeMap::new(),
        })
    }

    /// Our own member, from four places that each know a part; at most 2 s, since all are asked at once.
    pub async fn own(&mut self, now_ms: u64) -> OwnSeen {
        let due = Due { nodes: now_ms >= self.nodes_due_ms, classes: now_ms >= self.classes_due_ms };
        let (health, metrics, cacerts, members, status, api) = tokio::join!(
            Ask::get(loopback(METRICS), "/health").plain(),
            Ask::get(loopback(METRICS), "/metrics").plain(),
            Ask::get(loopback(API), "/cacerts").tls(&self.anyone),
            Ask::get(loopback(API), "/db/info").tls(&self.anyone),
            self.gateway("/v3/maintenance/status", "{}"),
            self.api(due),
        );
        let Api { ready, nodes, runtime_classes } = api;
        if let Some(nodes) = &nodes {
            // A long list is asked for less often: it is for drift and `ready`, not for the gates.
            self.nodes_due_ms = now_ms + (nodes.len() as u64) * 50;
        }
        if runtime_classes.is_some() {
            self.classes_due_ms = now_ms + CLASSES_MS;
        }
        let metrics = ok(metrics).map(|body| parse::metrics(&String::from_utf8_lossy(&body)));
        let status = status.ok().and_then(|answer| parse::etcd_status(&answer.body));
        let peers = metrics.as_ref().map(|m| m.peers.clone()).unwrap_or_default();
        let connected = self.connected.scrape(now_ms, &peers);

        let metrics_id = metrics.as_ref().and_then(|metrics| metrics.member_id);
        let Some(member_id) = metrics_id.or(status.as_ref().map(|status| status.member_id)) else {
            return OwnSeen { member: None, nodes, runtime_classes };
        };
        let ca = ok(cacerts).map(|body| Digest::of(&body));
        let identity = match (ca, &status) {
            (Some(ca), Some(status)) => Some(Identity { ca, cluster_id: status.cluster_id }),
            (_, _) => None,
        };
        let member = OwnMember {
            identity,
            member_id,
            learner: metrics.as_ref().is_some_and(|metrics| metrics.learner),
            leader: status.and_then(|status| status.leader),
            healthy: ok(health).is_some_and(|body| parse::healthy(&body)),
            ready,
            members: list(members),
            connected,
        };
        OwnSeen { member: Some(member), nodes, runtime_classes }
    }

    /// Others, from outside. The server token is shown only to holders of a certificate by our own CA.
    pub fn outside(
        &self,
        now_ms: u64,
        others: BTreeSet<Ipv4Addr>,
        server_password: Option<Zeroizing<String>>,
    ) -> impl Future<Output = Vec<Outside>> + use<> {
        let peer = self.read("etcd/peer-server-client.crt").zip(self.read("etcd/peer-server-client.key"));
        let peer = peer.and_then(|(certificate, key)| anyone(Some((&certificate, &key))).ok());
        let doors = Doors {
            anyone: self.anyone.clone(),
            ours: self.read("server-ca.crt").and_then(|ca| only(&ca, None).ok()),
            peer,
            password: server_password,
        };
        let known = |address: &Ipv4Addr| {
            let (at_ms, found) = self.peer_ports.get(address)?;
            (now_ms.saturating_sub(*at_ms) < UNCERTIFIED_MS && doors.peer.is_none()).then_some(*found)
        };
        let others: Vec<_> = others.into_iter().map(|address| (address, known(&address))).collect();
        async move {
            // Few servers (3 or 5), each bounded at 2 s: asked together.
            let mut asked = JoinSet::new();
            for (address, known) in others {
                asked.spawn(one_outside(address, doors.clone(), known));
            }
            let mut found: Vec<_> = asked.join_all().await;
            found.sort_by_key(|outside| outside.address);
            found
        }
    }

    /// Remembers what was found, so that a node without a certificate does not fill its neighbours' logs.
    pub fn note(&mut self, now_ms: u64, found: &[Outside]) {
        for outside in found {
            let entry = self.peer_ports.entry(outside.address).or_insert((0, false));
            if now_ms.saturating_sub(entry.0) >= UNCERTIFIED_MS {
                *entry = (now_ms, outside.peer_port);
            }
        }
    }

    /// A worker's load balancer reaches a server; and through it, with the kubelet's certificate, its own Node.
    pub async fn worker(&self, node: &NodeName) -> (bool, Option<NodeSeen>) {
        let answer = Ask::get(loopback(BALANCER), "/ping").tls(&self.anyone).await;
        if ok(answer).is_none_or(|body| body != b"pong") {
            return (false, None);
        }
        let read = |name: &str| self.root.read(&format!("{AGENT}/{name}")).ok().flatten();
        let (Some(ca), Some(certificate), Some(key)) =
            (read("server-ca.crt"), read("client-kubelet.crt"), read("client-kubelet.key"))
        else {
            return (true, None);
        };
        let Ok(config) = only(&ca, Some((&certificate, &key))) else { return (true, None) };
        let answer = Ask::get(loopback(BALANCER), &format!("/api/v1/nodes/{node}")).tls(&config).await;
        (true, ok(answer).and_then(|body| parse::nodes(&body)).and_then(|mut nodes| nodes.pop()))
    }

    /// SHA-256 of what answers `/cacerts` there, and the bytes.
    pub async fn cacerts(&self, address: Ipv4Addr) -> Result<Vec<u8>, String> {
        let answer = Ask::get(at(address, API), "/cacerts").short().tls(&self.anyone).await;
        match answer {
            Ok(Answer { status: 200, body }) => Ok(body),
            Ok(Answer { status, .. }) => Err(format!("HTTP {status}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// etcd's JSON gateway, which wants etcd's own client certificate.
    pub async fn gateway(&self, path: &str, json: &str) -> Result<Answer, AskError> {
        let (Some(ca), Some(certificate), Some(key)) =
            (self.read("etcd/server-ca.crt"), self.read("etcd/client.crt"), self.read("etcd/client.key"))
        else {
            return Err(AskError::Setup);
        };
        let config = only(&ca, Some((&certificate, &key)))?;
        Ask { json: Some(json), ..Ask::get(loopback(GATEWAY), path) }.tls(&config).await
    }

    /// `/readyz`, the Nodes and the RuntimeClasses, with the API server's own admin certificate: a `kubectl` each 5 s would cost more
    /// than all other probes together.
    async fn api(&self, due: Due) -> Api {
        let (Some(ca), Some(certificate), Some(key)) =
            (self.read("server-ca.crt"), self.read("client-admin.crt"), self.read("client-admin.key"))
        else {
            return Api::default();
        };
        let Ok(config) = only(&ca, Some((&certificate, &key))) else { return Api::default() };
        let ready = Ask::get(loopback(API), "/readyz").tls(&config).await;
        let ready = matches!(ready, Ok(Answer { status: 200, .. }));
        let list = async |path: &str, due: bool| match ready && due {
            true => ok(Ask::get(loopback(API), path).tls(&config).await),
            false => None,
        };
        let (nodes, runtime_classes) =
            tokio::join!(list("/api/v1/nodes", due.nodes), list(RUNTIME_CLASSES, due.classes));
        Api {
            ready,
            nodes: nodes.and_then(|body| parse::nodes(&body)),
            runtime_classes: runtime_classes.and_then(|body| parse::names(&body)),
        }
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.root.read(&format!("{TLS}/{name}")).ok().flatten()
    }

    /// The newest snapshot in k3s's own folder.
    pub fn newest_snapshot(&self) -> Option<SnapshotTaken> {
        let entries = std::fs::read_dir(self.root.path(SNAPSHOTS)).ok()?;
        let taken = |entry: std::fs::DirEntry| {
            let facts = entry.metadata().ok().filter(|facts| facts.is_file())?;
            let unix = facts.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
            // So is one called that is being written, or was when k3s ended (etcd: client/v3/snapshot).
            let name = entry.file_name().into_string().ok().filter(|name| !name.ends_with(".part"))?;
            Some(SnapshotTaken { name, unix })
        };
        entries.flatten().filter_map(taken).max_by_key(|snapshot| snapshot.unix)
    }
}

/// Addresses that a server looks at from outside: every listed member and every declared server but itself.
pub fn others(
    declared: impl Iterator<Item = Ipv4Addr>,
    listed: &[EtcdMember],
    me: Ipv4Addr,
) -> BTreeSet<Ipv4Addr> {
    let listed = listed.iter().filter_map(|member| member.peer);
    declared.chain(listed).filter(|address| *address != me).collect()
}

/// With what each question is asked.
#[derive(Clone)]
struct Doors {
    anyone: Arc<ClientConfig>,
    /// Only to our own CA's holders.
    ours: Option<Arc<ClientConfig>>,
    /// With our member's certificate.
    peer: Option<Arc<ClientConfig>>,
    password: Option<Zeroizing<String>>,
}

async fn one_outside(address: Ipv4Addr, doors: Doors, known: Option<bool>) -> Outside {
    let info = async {
        match (&doors.ours, &doors.password) {
            (Some(ours), Some(password)) => {
                let ask = Ask { server_password: Some(password), ..Ask::get(at(address, API), "/db/info") };
                list(ask.tls(ours).await)
            }
            (_, _) => Err("not asked: this node has no server token or CA of the cluster yet".into()),
        }
    };
    let peer_port = async {
        let peer = doors.peer.as_ref().unwrap_or(&doors.anyone);
        match known {
            Some(found) => found,
            None => Ask::get(at(address, PEER), "/version").speaks_tls(peer).await,
        }
    };
    let cacerts = Ask::get(at(address, API), "/cacerts").short().tls(&doors.anyone);
    let (peer_port, cacerts, members) = tokio::join!(peer_port, cacerts, info);
    Outside { address, peer_port, ca: ok(cacerts).map(|body| Digest::of(&body)), members }
}

fn list(answer: Result<Answer, AskError>) -> Result<Vec<EtcdMember>, String> {
    match answer {
        Ok(answer) => parse::db_info(answer.status, &answer.body),
        Err(error) => Err(error.to_string()),
    }
}

fn ok(answer: Result<Answer, AskError>) -> Option<Vec<u8>> {
    answer.ok().filter(|answer| answer.status == 200).map(|answer| answer.body)
}

fn loopback(port: u16) -> SocketAddr {
    at(Ipv4Addr::LOCALHOST, port)
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

/// Since when each peer was seen connected without a gap.
#[derive(Debug, Default)]
struct Connected {
    since_ms: BTreeMap<u64, u64>,
}

impl Connected {
    fn scrape(&mut self, now_ms: u64, peers: &[u64]) -> Vec<u64> {
        self.since_ms.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            self.since_ms.entry(*peer).or_insert(now_ms);
        }
        let long = |(_, since): &(&u64, &u64)| now_ms.saturating_sub(**since) >= CONNECTED_MS;
        self.since_ms.iter().filter(long).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, scratch};

    #[test]
    fn a_peer_is_connected_after_two_scrapes_five_seconds_apart() {
        let mut connected = Connected::default();
        assert!(connected.scrape(1000, &[7, 8]).is_empty());
        assert!(connected.scrape(5999, &[7, 8]).is_empty());
        assert_eq!(connected.scrape(6000, &[7]), [7]);
        assert!(connected.scrape(6001, &[]).is_empty());
        assert!(connected.scrape(7000, &[7, 8]).is_empty(), "a gap starts it anew");
    }

    #[test]
    fn a_server_looks_at_listed_and_declared_ones_but_not_at_itself() {
        let listed = [EtcdMember { id: 1, name: None, peer: Some(Cluster::address(9)), learner: true }];
        let declared = (1..=3).map(Cluster::address);
        let found: Vec<_> = others(declared, &listed, Cluster::address(2)).into_iter().collect();
        assert_eq!(found, [1, 3, 9].map(Cluster::address));
    }

    #[test]
    fn a_snapshot_that_is_still_written_does_not_count() {
        let root = scratch();
        let write = |name: &str| root.write(&format!("{SNAPSHOTS}/{name}"), b"x", 0o600).unwrap();
        write("before-join-mini-pc-1-1800000000.part");
        assert_eq!(Prober::new(root.clone()).unwrap().newest_snapshot(), None);
        write("before-join-mini-pc-1-1800000000");
        let newest = Prober::new(root.clone()).unwrap().newest_snapshot().unwrap();
        assert_eq!(newest.name, "before-join-mini-pc-1-1800000000");
    }

    #[tokio::test]
    async fn without_k3s_there_is_no_member_and_no_error() {
        let root = scratch();
        let mut prober = Prober::new(root.clone()).unwrap();
        let local = tokio::task::LocalSet::new();
        let seen = local.run_until(prober.own(0)).await;
        assert_eq!(seen.nodes, None);
        assert_eq!(prober.newest_snapshot(), None);
    }
}
