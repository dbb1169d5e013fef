//! Why k3s may not start here, with the way out.

use muster_protocol::ids::{NodeName, Number};
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "there is no datastore here and no grant to make or join one\nhint: the provisioner gives one when it is this node's turn; see muster cluster status"
    )]
    NoGrant,
    #[error(
        "this was member `{name}`, and its datastore is gone\nhint: muster node reinstall {node} lets it join anew"
    )]
    LostData { name: String, node: NodeName },
    #[error(
        "this member was removed from the cluster (tombstone)\nhint: the provisioner grants a new join; see muster cluster status"
    )]
    Removed,
    #[error(
        "there is a SQLite datastore (server/db/state.db)\nhint: moving it to etcd is a person's decision, after a backup"
    )]
    Sqlite,
    #[error(
        "there is a datastore that muster did not put there\nhint: muster cluster adopt, or muster node reinstall {node}"
    )]
    UnknownData { node: NodeName },
    #[error(
        "server/db/etcd/member/wal is empty: a half wipe, etcd would fail for ever\nhint: muster node reinstall {node}"
    )]
    HalfWiped { node: NodeName },
    #[error(
        "the datastore belongs to member `{have}`, recorded is `{recorded}`\nhint: muster node reinstall {node}"
    )]
    OtherName { have: String, recorded: String, node: NodeName },
    #[error(
        "the member's address is {recorded}, this node is to have {have}\nhint: give {recorded} back in cluster.toml, or muster node reinstall {node}"
    )]
    OtherAddress { have: Ipv4Addr, recorded: Ipv4Addr, node: NodeName },
    #[error("the grant's fence {have} is older than {known}\nhint: the provisioner will send a newer one")]
    StaleFence { have: Number, known: Number },
    #[error("the grant {fence} was used up: this node became a member under it")]
    Spent { fence: Number },
    #[error(
        "a grant to make the cluster cannot be used here: {why}\nhint: muster cluster init --abandon {node}, when that init is really gone"
    )]
    InitRefused { why: &'static str, node: NodeName },
}

impl Refusal {
    /// Whether a grant from the provisioner would change the answer.
    pub fn wants_grant(&self) -> bool {
        match self {
            Self::NoGrant
            | Self::LostData { .. }
            | Self::Removed
            | Self::StaleFence { .. }
            | Self::Spent { .. } => true,
            Self::Sqlite
            | Self::UnknownData { .. }
            | Self::HalfWiped { .. }
            | Self::OtherName { .. }
            | Self::OtherAddress { .. }
            | Self::InitRefused { .. } => false,
        }
    }
}
