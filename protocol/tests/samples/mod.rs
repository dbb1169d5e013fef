//! One sample of every statement, with every optional part present; golden bytes and mutation tests share them.
#![allow(dead_code, reason = "each test file uses its own part of the samples")]

/// What is said until the disk carries a system.
mod install;
/// What a running node says and is told.
mod node;

pub(crate) use install::*;
pub(crate) use node::*;

use muster_protocol::beacon::Beacon;
use muster_protocol::hello::Seen;
use muster_protocol::ids::{ClusterId, InstanceId, Number};
use muster_protocol::inventory::DiskId;
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::{Delegation, OnlineKey, Signed, Trust};

pub(crate) const CLUSTER: ClusterId = ClusterId([9; 16]);

pub(crate) fn root() -> SecretKey {
    SecretKey::from_seed([1; 32])
}

pub(crate) fn node_key() -> SecretKey {
    SecretKey::from_seed([5; 32])
}

pub(crate) fn trust() -> Trust {
    Trust {
        cluster: CLUSTER,
        cluster_name: "sharpi".into(),
        root: root().public().verify,
        build_epoch: 1_795_000_000,
    }
}

pub(crate) fn online() -> OnlineKey {
    let secret = SecretKey::from_seed([2; 32]);
    let delegation = Delegation { number: 3, online: secret.public().verify };
    OnlineKey { secret, delegation: Signed::by_key(CLUSTER, &root(), &delegation), number: 3 }
}

pub(crate) fn number(n: u64) -> Number {
    Number { delegation: 3, generation: 1, n }
}

fn name(text: &str) -> muster_protocol::ids::NodeName {
    text.parse().unwrap()
}

pub(crate) fn beacon() -> Beacon {
    Beacon { instance: InstanceId([4; 8]), sequence: 77, api_port: 7480, http_port: 80 }
}

pub(crate) fn disk_id() -> DiskId {
    DiskId {
        wwn: Some("eui.0025385391b1b1b1".into()),
        serial: Some("S4EVNF0M".into()),
        size_bytes: 512 << 30,
    }
}

pub(crate) fn seen() -> Seen {
    Seen { delegation: 3, manifest: number(11), order: number(12), fence: number(13), roster: number(10) }
}
