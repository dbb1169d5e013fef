//! Every combination of disk, record and grant, against what must never happen.

use super::decide::Way;
use super::decide::tests::{
    NONCE, at, empty, fresh, init_grant, join_grant, kept, member, sqlite, tombstone, wal,
};
use crate::node::testing::Cluster;
use muster_protocol::etcd::GateRecord;

/// Every combination: k3s never gets a start that would make a second cluster or bring a member back unasked.
#[test]
fn no_combination_makes_a_cluster_over_a_record_or_over_data() {
    let records = [
        fresh(),
        kept(5, GateRecord::Initialising { nonce: NONCE }),
        kept(5, GateRecord::Initialising { nonce: [8; 16] }),
        kept(5, GateRecord::Joining { fence: Cluster::number(5) }),
        kept(5, member()),
    ];
    let mut half = wal();
    half.wal_is_empty = true;
    for disk in [empty(), wal(), half, tombstone(), sqlite()] {
        for kept in &records {
            for fence in [4, 5, 6] {
                for grant in [None, Some(init_grant(fence, NONCE)), Some(join_grant(fence))] {
                    let Ok(allowed) = at(2, &disk, kept, grant.as_ref()) else { continue };
                    match allowed.way {
                        Way::Init { nonce } => {
                            assert!(disk.data.is_empty());
                            let same = GateRecord::Initialising { nonce };
                            assert!(kept.record == GateRecord::Fresh || kept.record == same);
                        }
                        Way::Resume => {
                            assert!(disk.data.wal && !disk.data.tombstone && !disk.wal_is_empty);
                            assert_ne!(kept.record, GateRecord::Fresh);
                        }
                        Way::Join { move_aside, .. } => {
                            assert!(!disk.data.state_db);
                            assert!(!move_aside || Cluster::number(fence) > kept.fence);
                        }
                    }
                    assert!(allowed.keep.fence >= kept.fence);
                }
            }
        }
    }
}
