//! May k3s start on this server, and as what? A pure function of disk, record and grant (design §8).
//!
//! k3s by itself would rejoin after a removal and would make a second cluster after a wipe with an old config. Here it
//! starts only as what its disk says it already is, or under a grant with the current fence.

use crate::node::gate::record::Kept;
use crate::node::gate::refusal::Refusal;
use muster_protocol::etcd::{DataFacts, GateRecord, Identity};
use muster_protocol::grant::{Grant, Start};
use muster_protocol::ids::{NodeName, Number};
use std::net::Ipv4Addr;

/// What lies in k3s's `server/db`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub data: DataFacts,
    /// The WAL directory is there and holds nothing: etcd renames a filled one into place, so this is a half wipe.
    pub wal_is_empty: bool,
    /// `db/etcd/name`: the member's name, `<node>-<8 hex>`.
    pub member_name: Option<String>,
}

/// Who we are by the manifest.
#[derive(Debug, Clone, Copy)]
pub struct Me<'a> {
    pub name: &'a NodeName,
    pub address: Ipv4Addr,
    /// The order under which this disk was installed.
    pub installation: Number,
}

/// As what k3s may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The one start that may say `cluster-init`.
    Init { nonce: [u8; 16] },
    /// Through one of these voters, after moving `server/db` aside whole when it holds something.
    Join { identity: Identity, voters: Vec<(NodeName, Ipv4Addr)>, move_aside: bool },
    /// As the member that the disk says it is; nobody is asked.
    Resume,
}

/// A start that is allowed, and what must be on the disk before it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    pub way: Way,
    pub keep: Kept,
}

pub fn decide(me: Me<'_>, disk: &Disk, kept: &Kept, grant: Option<&Grant>) -> Result<Allowed, Refusal> {
    // SQLite is nobody's to overwrite, whatever a grant says.
    if disk.data.state_db {
        return Err(Refusal::Sqlite);
    }
    let as_it_is = resume(me, disk, kept);
    let Some(grant) = grant else { return as_it_is };
    if grant.fence < kept.fence {
        // An old grant does not stop a member that needs none.
        return as_it_is.map_err(|_| Refusal::StaleFence { have: grant.fence, known: kept.fence });
    }
    match &grant.start {
        Start::Init { nonce, installation } => match as_it_is {
            Ok(allowed) => Ok(allowed),
            // Meant for a disk that is gone: as if no grant were there, so another one is asked for.
            Err(refusal) if *installation != me.installation => Err(refusal),
            Err(refusal) => init(me, disk, kept, grant.fence, *nonce, refusal),
        },
        Start::Join { identity, voters } => {
            let newer = grant.fence > kept.fence;
            if !newer {
                if let Ok(allowed) = as_it_is {
                    return Ok(allowed);
                }
                if let GateRecord::Member { .. } = kept.record {
                    return Err(Refusal::Spent { fence: grant.fence });
                }
                // Only a newer fence may move data; under the same one there must be none.
                if !disk.data.is_empty() {
                    return as_it_is;
                }
            }
            let keep = Kept {
                fence: grant.fence,
                record: GateRecord::Joining { fence: grant.fence },
                expected: Some(*identity),
                peers: voters.iter().map(|(_, address)| *address).collect(),
                started: true,
            };
            let move_aside = !disk.data.is_empty();
            Ok(Allowed { way: Way::Join { identity: *identity, voters: voters.clone(), move_aside }, keep })
        }
    }
}

/// Without any grant: only with a WAL, and only as what is recorded.
fn resume(me: Me<'_>, disk: &Disk, kept: &Kept) -> Result<Allowed, Refusal> {
    let node = || me.name.clone();
    if disk.data.tombstone {
        return Err(Refusal::Removed);
    }
    if !disk.data.wal {
        return Err(match &kept.record {
            GateRecord::Member { name, .. } => Refusal::LostData { name: name.clone(), node: node() },
            GateRecord::Fresh | GateRecord::Initialising { .. } | GateRecord::Joining { .. } => {
                Refusal::NoGrant
            }
        });
    }
    if disk.wal_is_empty {
        return Err(Refusal::HalfWiped { node: node() });
    }
    match &kept.record {
        GateRecord::Fresh => return Err(Refusal::UnknownData { node: node() }),
        GateRecord::Initialising { .. } | GateRecord::Joining { .. } => {
            // Not seen as a voter yet, but the member on the disk must be ours by its node's name.
            if let Some(have) = &disk.member_name
                && !is_member_of(have, me.name)
            {
                let recorded = me.name.to_string();
                return Err(Refusal::OtherName { have: have.clone(), recorded, node: node() });
            }
        }
        GateRecord::Member { name, address, .. } => {
            if disk.member_name.as_ref() != Some(name) || !is_member_of(name, me.name) {
                let have = disk.member_name.clone().unwrap_or_else(|| "(no name)".into());
                return Err(Refusal::OtherName { have, recorded: name.clone(), node: node() });
            }
            if *address != me.address {
                return Err(Refusal::OtherAddress { have: me.address, recorded: *address, node: node() });
            }
        }
    }
    Ok(Allowed { way: Way::Resume, keep: Kept { started: true, ..kept.clone() } })
}

fn init(
    me: Me<'_>,
    disk: &Disk,
    kept: &Kept,
    fence: Number,
    nonce: [u8; 16],
    refusal: Refusal,
) -> Result<Allowed, Refusal> {
    let refused = |why| Refusal::InitRefused { why, node: me.name.clone() };
    if !disk.data.is_empty() {
        return Err(refusal);
    }
    match &kept.record {
        GateRecord::Fresh => {}
        GateRecord::Initialising { nonce: began } if *began == nonce => {}
        GateRecord::Initialising { .. } => return Err(refused("this disk began another init")),
        GateRecord::Joining { .. } => return Err(refused("this disk was joining a cluster")),
        GateRecord::Member { .. } => return Err(refused("this disk was a member of a cluster")),
    }
    let record = GateRecord::Initialising { nonce };
    let keep = Kept { fence, record, expected: None, peers: Vec::new(), started: true };
    Ok(Allowed { way: Way::Init { nonce }, keep })
}

/// `mini-pc-1-1a2b3c4d` is mini-pc-1's; `mini-pc-10-1a2b3c4d` is not.
pub fn is_member_of(member: &str, node: &NodeName) -> bool {
    member.rsplit_once('-').is_some_and(|(name, suffix)| {
        name == node.as_str() && suffix.len() == 8 && suffix.bytes().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::node::testing::Cluster;
    use muster_protocol::ids::Digest;

    pub(in super::super) const NONCE: [u8; 16] = [3; 16];

    fn identity() -> Identity {
        Identity { ca: Digest([1; 32]), cluster_id: u64::MAX - 5 }
    }

    pub(in super::super) fn member() -> GateRecord {
        let name = "mini-pc-2-1a2b3c4d".into();
        GateRecord::Member { identity: identity(), name, address: Cluster::address(2) }
    }

    pub(in super::super) fn kept(fence: u64, record: GateRecord) -> Kept {
        Kept { fence: Cluster::number(fence), record, expected: None, peers: vec![], started: true }
    }

    pub(in super::super) fn fresh() -> Kept {
        Kept::default()
    }

    pub(in super::super) fn wal() -> Disk {
        Disk {
            data: DataFacts { wal: true, ..DataFacts::default() },
            wal_is_empty: false,
            member_name: Some("mini-pc-2-1a2b3c4d".into()),
        }
    }

    pub(in super::super) fn empty() -> Disk {
        Disk::default()
    }

    pub(in super::super) fn tombstone() -> Disk {
        let mut disk = wal();
        disk.data.tombstone = true;
        disk
    }

    pub(in super::super) fn sqlite() -> Disk {
        Disk { data: DataFacts { state_db: true, ..DataFacts::default() }, ..Disk::default() }
    }

    pub(in super::super) fn init_grant(fence: u64, nonce: [u8; 16]) -> Grant {
        Cluster::new().grant(2, fence, Start::Init { nonce, installation: Number::default() })
    }

    pub(in super::super) fn join_grant(fence: u64) -> Grant {
        let voters = vec![(Cluster::name(1), Cluster::address(1))];
        Cluster::new().grant(2, fence, Start::Join { identity: identity(), voters })
    }

    pub(in super::super) fn at(
        address: u8,
        disk: &Disk,
        kept: &Kept,
        grant: Option<&Grant>,
    ) -> Result<Allowed, Refusal> {
        let name = Cluster::name(2);
        let me = Me { name: &name, address: Cluster::address(address), installation: Number::default() };
        decide(me, disk, kept, grant)
    }

    fn way(disk: &Disk, kept: &Kept, grant: Option<&Grant>) -> Result<Way, Refusal> {
        at(2, disk, kept, grant).map(|allowed| allowed.way)
    }

    fn join(move_aside: bool) -> Way {
        let voters = vec![(Cluster::name(1), Cluster::address(1))];
        Way::Join { identity: identity(), voters, move_aside }
    }

    #[test]
    fn an_empty_disk_starts_under_a_grant_only() {
        assert_eq!(way(&empty(), &fresh(), None), Err(Refusal::NoGrant));
        assert_eq!(way(&empty(), &fresh(), Some(&init_grant(5, NONCE))), Ok(Way::Init { nonce: NONCE }));
        assert_eq!(way(&empty(), &fresh(), Some(&join_grant(5))), Ok(join(false)));
    }

    #[test]
    fn what_is_kept_before_the_start_says_under_which_fence() {
        let init = at(2, &empty(), &fresh(), Some(&init_grant(5, NONCE))).unwrap().keep;
        assert_eq!(init.record, GateRecord::Initialising { nonce: NONCE });
        assert_eq!(init.fence, Cluster::number(5));
        let joining = at(2, &empty(), &fresh(), Some(&join_grant(6))).unwrap().keep;
        assert_eq!(joining.record, GateRecord::Joining { fence: Cluster::number(6) });
        assert_eq!(joining.expected, Some(identity()));
    }

    #[test]
    fn a_member_starts_without_asking() {
        assert_eq!(way(&wal(), &kept(5, member()), None), Ok(Way::Resume));
        assert_eq!(at(2, &wal(), &kept(5, member()), None).unwrap().keep, kept(5, member()));
    }

    #[test]
    fn a_member_is_not_stopped_by_an_old_or_a_used_grant() {
        assert_eq!(way(&wal(), &kept(5, member()), Some(&join_grant(4))), Ok(Way::Resume));
        assert_eq!(way(&wal(), &kept(5, member()), Some(&join_grant(5))), Ok(Way::Resume));
        assert_eq!(way(&wal(), &kept(5, member()), Some(&init_grant(9, NONCE))), Ok(Way::Resume));
    }

    #[test]
    fn a_wal_under_initialising_or_joining_starts_offline_as_often_as_needed() {
        for record in
            [GateRecord::Initialising { nonce: NONCE }, GateRecord::Joining { fence: Cluster::number(5) }]
        {
            assert_eq!(way(&wal(), &kept(5, record.clone()), None), Ok(Way::Resume));
            assert_eq!(at(2, &wal(), &kept(5, record.clone()), None).unwrap().keep.record, record);
        }
    }

    #[test]
    fn without_a_wal_each_further_start_needs_the_same_grant_again() {
        let initialising = kept(5, GateRecord::Initialising { nonce: NONCE });
        assert_eq!(way(&empty(), &initialising, None), Err(Refusal::NoGrant));
        assert_eq!(way(&empty(), &initialising, Some(&init_grant(5, NONCE))), Ok(Way::Init { nonce: NONCE }));
        let joining = kept(5, GateRecord::Joining { fence: Cluster::number(5) });
        assert_eq!(way(&empty(), &joining, None), Err(Refusal::NoGrant));
        assert_eq!(way(&empty(), &joining, Some(&join_grant(5))), Ok(join(false)));
    }

    #[test]
    fn an_init_is_resumed_only_on_the_disk_that_began_it() {
        let other = kept(5, GateRecord::Initialising { nonce: [8; 16] });
        let refused = way(&empty(), &other, Some(&init_grant(6, NONCE)));
        assert!(matches!(refused, Err(Refusal::InitRefused { .. })), "{refused:?}");
    }

    #[test]
    fn an_init_for_a_disk_that_was_replaced_is_as_good_as_none() {
        let (name, grant) = (Cluster::name(2), init_grant(5, NONCE));
        let me = Me { name: &name, address: Cluster::address(2), installation: Cluster::number(7) };
        assert_eq!(decide(me, &empty(), &fresh(), Some(&grant)), Err(Refusal::NoGrant));
        assert!(decide(me, &wal(), &kept(5, member()), Some(&grant)).is_ok(), "a member needs none");
    }

    #[test]
    fn a_wiped_member_never_makes_a_cluster() {
        let refused = way(&empty(), &kept(5, member()), Some(&init_grant(9, NONCE)));
        assert!(matches!(refused, Err(Refusal::InitRefused { .. })), "{refused:?}");
        let joining = kept(5, GateRecord::Joining { fence: Cluster::number(5) });
        assert!(way(&empty(), &joining, Some(&init_grant(9, NONCE))).is_err());
    }

    #[test]
    fn a_wiped_member_needs_a_newer_fence_than_the_one_it_joined_under() {
        let lost = way(&empty(), &kept(5, member()), None);
        assert!(matches!(lost, Err(Refusal::LostData { .. })), "{lost:?}");
        assert_eq!(
            way(&empty(), &kept(5, member()), Some(&join_grant(5))),
            Err(Refusal::Spent { fence: Cluster::number(5) })
        );
        assert_eq!(way(&empty(), &kept(5, member()), Some(&join_grant(6))), Ok(join(false)));
    }

    #[test]
    fn an_older_fence_is_stale() {
        let joining = kept(5, GateRecord::Joining { fence: Cluster::number(5) });
        let stale = Err(Refusal::StaleFence { have: Cluster::number(4), known: Cluster::number(5) });
        assert_eq!(way(&empty(), &joining, Some(&join_grant(4))), stale);
        let initialising = kept(5, GateRecord::Initialising { nonce: NONCE });
        assert_eq!(way(&empty(), &initialising, Some(&init_grant(4, NONCE))), stale);
    }

    #[test]
    fn only_a_newer_join_grant_moves_data_aside() {
        for (disk, record) in [
            (tombstone(), member()),
            (wal(), member()),
            (wal(), GateRecord::Initialising { nonce: NONCE }),
            (wal(), GateRecord::Joining { fence: Cluster::number(5) }),
            (wal(), GateRecord::Fresh),
        ] {
            let record = kept(5, record);
            assert_eq!(way(&disk, &record, Some(&join_grant(6))), Ok(join(true)), "{disk:?} {record:?}");
            for grant in [None, Some(&join_grant(5)), Some(&init_grant(6, NONCE))] {
                if let Ok(way) = way(&disk, &record, grant) {
                    assert_eq!(way, Way::Resume, "{disk:?} {record:?} {grant:?}");
                }
            }
        }
    }

    #[test]
    fn a_removed_member_does_not_come_back_by_itself() {
        assert_eq!(way(&tombstone(), &kept(5, member()), None), Err(Refusal::Removed));
        assert_eq!(way(&tombstone(), &kept(5, member()), Some(&join_grant(6))), Ok(join(true)));
    }

    #[test]
    fn sqlite_is_never_touched() {
        for grant in [None, Some(&join_grant(9)), Some(&init_grant(9, NONCE))] {
            assert_eq!(way(&sqlite(), &fresh(), grant), Err(Refusal::Sqlite));
        }
    }

    #[test]
    fn a_datastore_without_a_record_is_not_ours_to_start() {
        for grant in [None, Some(&init_grant(5, NONCE))] {
            let refused = way(&wal(), &fresh(), grant);
            assert!(matches!(refused, Err(Refusal::UnknownData { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_member_of_another_name_or_address_is_refused() {
        let mut other = wal();
        other.member_name = Some("mini-pc-20-1a2b3c4d".into());
        for record in [member(), GateRecord::Joining { fence: Cluster::number(5) }] {
            let refused = way(&other, &kept(5, record), None);
            assert!(matches!(refused, Err(Refusal::OtherName { .. })), "{refused:?}");
        }
        let moved = at(3, &wal(), &kept(5, member()), None);
        assert!(matches!(moved, Err(Refusal::OtherAddress { .. })), "{moved:?}");
        let mut nameless = wal();
        nameless.member_name = None;
        assert!(way(&nameless, &kept(5, member()), None).is_err());
    }

    #[test]
    fn an_empty_wal_folder_is_a_half_wipe() {
        let mut half = wal();
        half.wal_is_empty = true;
        for record in [member(), GateRecord::Joining { fence: Cluster::number(5) }] {
            let refused = way(&half, &kept(5, record.clone()), None);
            assert!(matches!(refused, Err(Refusal::HalfWiped { .. })), "{refused:?}");
            assert!(way(&half, &kept(5, record), Some(&join_grant(5))).is_err());
        }
        assert_eq!(way(&half, &kept(5, member()), Some(&join_grant(6))), Ok(join(true)));
    }
}
