//! What a server's agent sees of etcd: its own disk, its own member, and every other listed member from outside.
//!
//! Facts only; the provisioner's membership machine decides (facts: the procedure in docs/cluster.md).

use crate::ids::{Digest, NodeName, Number};
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

/// Which cluster: each half alone is equal in two clusters in a case that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of `/cacerts` as served.
    pub ca: Digest,
    pub cluster_id: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    pub id: u64,
    /// `<node>-<8 hex>`; `None` for a member that has not started.
    pub name: Option<String>,
    pub peer: Option<Ipv4Addr>,
    pub learner: bool,
}

impl EtcdMember {
    /// The node's name without k3s's suffix: `mini-pc-1` is a prefix of `mini-pc-10`, so cut, never match by prefix.
    pub fn node(&self) -> Option<&str> {
        let (node, suffix) = self.name.as_deref()?.rsplit_once('-')?;
        (suffix.len() == 8 && suffix.bytes().all(|c| c.is_ascii_hexdigit())).then_some(node)
    }
}

/// What the gate on the node wrote down before k3s last started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateRecord {
    /// Nothing: k3s never ran here under muster.
    Fresh,
    Initialising {
        nonce: [u8; 16],
    },
    Joining {
        fence: Number,
    },
    Member {
        identity: Identity,
        name: String,
        address: Ipv4Addr,
    },
}

/// What lies in k3s's `server/db`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    /// The directory `db/etcd/member/wal` exists; its contents do not matter to k3s.
    pub wal: bool,
    pub tombstone: bool,
    /// SQLite's `db/state.db`.
    pub state_db: bool,
}

impl DataFacts {
    pub fn is_empty(&self) -> bool {
        !self.wal && !self.tombstone && !self.state_db
    }
}

/// One server's agent on one server, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    pub data: DataFacts,
    pub record: GateRecord,
    /// The fence of a grant that lies there, or that was taken up after `record` was read: what it permits has begun or may
    /// begin at any moment, whatever the provisioner knows of it.
    pub granted: Option<Number>,
    /// systemd's ActiveState of k3s.
    pub unit: String,
    /// `None`: nothing answers on loopback.
    pub own: Option<OwnMember>,
    pub outside: Vec<Outside>,
    pub newest_snapshot: Option<SnapshotTaken>,
    pub clock_offset_ms: Option<i64>,
    pub k3s_version: Option<String>,
    /// Node objects as this server's API shows them; empty where it does not answer.
    pub nodes: Vec<NodeSeen>,
    /// Names of the RuntimeClasses there; `None` while this is not known.
    pub runtime_classes: Option<Vec<String>>,
}

impl ServerReport {
    /// Of a server where k3s never ran and whose clock is right: simulations and tests say what is otherwise.
    pub fn blank() -> Self {
        Self {
            data: DataFacts::default(),
            record: GateRecord::Fresh,
            granted: None,
            unit: "inactive".into(),
            own: None,
            outside: Vec::new(),
            newest_snapshot: None,
            clock_offset_ms: Some(0),
            k3s_version: None,
            nodes: Vec::new(),
            runtime_classes: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnMember {
    pub identity: Option<Identity>,
    pub member_id: u64,
    pub learner: bool,
    /// `None`: no leader.
    pub leader: Option<u64>,
    pub healthy: bool,
    /// `/readyz` said ok.
    pub ready: bool,
    /// The linearizable list from `/db/info`; `Err` has etcd's own words.
    pub members: Result<Vec<EtcdMember>, String>,
    /// Peers that `etcd_network_active_peers` showed connected in two scrapes at least 5 s apart.
    pub connected: Vec<u64>,
}

/// Another listed member, seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub address: Ipv4Addr,
    /// Something speaks TLS on 2380.
    pub peer_port: bool,
    /// Something answers on 6443, and with which CA.
    pub ca: Option<Digest>,
    pub members: Result<Vec<EtcdMember>, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    pub name: String,
    pub unix: u64,
}

/// One Node object, the parts that muster judges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSeen {
    pub name: NodeName,
    pub ready: bool,
    /// As `key=value:Effect`; those that Kubernetes itself sets and lifts are left out.
    pub taints: Vec<String>,
    pub labels: Vec<(String, String)>,
    pub kubelet_version: String,
    pub runtime_handlers: Vec<String>,
}
