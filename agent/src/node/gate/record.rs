//! What the gate remembers on the disk, flushed before k3s runs; and what it finds of k3s there.

use crate::node::gate::decide::Disk;
use crate::state::{Root, StateError};
use muster_protocol::etcd::{DataFacts, GateRecord, Identity};
use muster_protocol::ids::Number;
use muster_protocol::wire::Versioned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;

pub const RECORD: &str = "/var/lib/muster/gate/record";
/// k3s's own folder for the datastore.
pub const DB: &str = "/var/lib/rancher/k3s/server/db";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Of the grant under which the record was made.
    pub fence: Number,
    pub record: GateRecord,
    /// The cluster that a join was granted for: only its member may be recorded as one.
    pub expected: Option<Identity>,
    /// The other members' addresses, for `server:`.
    pub peers: Vec<Ipv4Addr>,
    /// k3s was let through at least once; from then on versions change by an ordered upgrade only.
    pub started: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            fence: Number::default(),
            record: GateRecord::Fresh,
            expected: None,
            peers: Vec::new(),
            started: false,
        }
    }
}

impl Versioned for Kept {
    const VERSION: u8 = 1;
}

impl Kept {
    pub fn load(root: &Root) -> Result<Self, StateError> {
        Ok(root.load(RECORD)?.unwrap_or_default())
    }

    pub fn save(&self, root: &Root) -> Result<(), StateError> {
        root.save(RECORD, self)
    }
}

/// Looks at `server/db` as k3s does: by the presence of names.
pub fn look(root: &Root) -> Disk {
    let at = |name: &str| format!("{DB}/{name}");
    let wal = root.path(&at("etcd/member/wal"));
    let data = DataFacts {
        wal: wal.is_dir(),
        tombstone: root.exists(&at("etcd/tombstone")),
        state_db: root.exists(&at("state.db")),
    };
    let wal_is_empty = data.wal && fs::read_dir(&wal).is_ok_and(|mut entries| entries.next().is_none());
    let member_name = fs::read_to_string(root.path(&at("etcd/name"))).ok().map(|name| name.trim().to_owned());
    Disk { data, wal_is_empty, member_name: member_name.filter(|name| !name.is_empty()) }
}

/// Record and data for the provisioner, to be taken before any member list is read; the record first, since the gate writes
/// it last. A joiner that has a WAL under its record and is in no list read afterwards was evicted; with data younger than
/// the list it may just have been added, and the provisioner would let go of the lock.
pub fn before(root: &Root) -> Result<(GateRecord, DataFacts), StateError> {
    let record = Kept::load(root)?.record;
    Ok((record, look(root).data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, scratch};

    #[test]
    fn what_lies_there_is_seen_by_names_alone() {
        let root = scratch();
        assert_eq!(look(&root), Disk::default());
        fs::create_dir_all(root.path(DB).join("etcd/member/wal")).unwrap();
        assert!(look(&root).wal_is_empty && look(&root).data.wal);
        fs::write(root.path(DB).join("etcd/member/wal/0.wal"), "x").unwrap();
        fs::write(root.path(DB).join("etcd/name"), "mini-pc-1-1a2b3c4d\n").unwrap();
        fs::write(root.path(DB).join("etcd/tombstone"), "").unwrap();
        fs::write(root.path(DB).join("state.db"), "").unwrap();
        let disk = look(&root);
        assert!(disk.data.wal && disk.data.tombstone && disk.data.state_db && !disk.wal_is_empty);
        assert_eq!(disk.member_name.as_deref(), Some("mini-pc-1-1a2b3c4d"));
    }

    #[test]
    fn the_record_survives_and_an_absent_one_is_fresh() {
        let root = scratch();
        assert_eq!(Kept::load(&root).unwrap(), Kept::default());
        let kept = Kept {
            fence: Cluster::number(4),
            record: GateRecord::Joining { fence: Cluster::number(4) },
            expected: None,
            peers: vec![Cluster::address(1)],
            started: true,
        };
        kept.save(&root).unwrap();
        assert_eq!(Kept::load(&root).unwrap(), kept);
    }
}
