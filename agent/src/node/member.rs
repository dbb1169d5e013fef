//! When this server has become a member, and who its peers are. Pure.

use crate::node::gate::decide::{Disk, is_member_of};
use crate::node::gate::record::Kept;
use muster_protocol::etcd::{GateRecord, Outside, OwnMember};
use muster_protocol::ids::NodeName;
use std::net::Ipv4Addr;

/// What was seen of ourselves in one round.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub node: &'a NodeName,
    pub address: Ipv4Addr,
    pub disk: &'a Disk,
    pub own: &'a OwnMember,
    /// The record that the provisioner was told with a sync it answered.
    pub told: Option<&'a GateRecord>,
}

/// The next record, if it changes; an error is a reason for a person.
pub fn next(kept: &Kept, seen: Seen<'_>) -> Result<Option<Kept>, String> {
    let Some((name, peers)) = voter(seen) else { return Ok(None) };
    let Some(identity) = seen.own.identity else { return Ok(None) };
    match &kept.record {
        GateRecord::Fresh => Ok(None),
        // The provisioner must have seen the init begin on this very disk: otherwise a member it finds here could be
        // of any cluster, and it would stop (membership: `begun`).
        GateRecord::Initialising { .. } if seen.told != Some(&kept.record) => Ok(None),
        GateRecord::Joining { .. } if kept.expected.is_some_and(|granted| granted != identity) => {
            Err("k3s joined another cluster than the granted one: it is not recorded as a member".into())
        }
        GateRecord::Initialising { .. } | GateRecord::Joining { .. } => {
            let record = GateRecord::Member { identity, name, address: seen.address };
            Ok(Some(Kept { record, expected: Some(identity), peers, ..kept.clone() }))
        }
        GateRecord::Member { identity: recorded, .. } if *recorded != identity => {
            Err("etcd answers as another cluster than the recorded one".into())
        }
        GateRecord::Member { .. } if kept.peers != peers => Ok(Some(Kept { peers, ..kept.clone() })),
        GateRecord::Member { .. } => Ok(None),
    }
}

/// Whether the others have taken us out of the list while our data still says member. etcd then stays up and unhealthy
/// for ever (facts: k3s §8): a new join is the way back, under a grant. An `Ok` list is a quorum's word.
pub fn is_removed(kept: &Kept, disk: &Disk, outside: &[Outside], me: Ipv4Addr) -> bool {
    let joined = match kept.record {
        GateRecord::Joining { .. } | GateRecord::Member { .. } => disk.data.wal,
        GateRecord::Fresh | GateRecord::Initialising { .. } => false,
    };
    let mut lists = outside.iter().filter_map(|outside| outside.members.as_ref().ok()).peekable();
    joined && lists.peek().is_some() && lists.all(|list| list.iter().all(|member| member.peer != Some(me)))
}

/// Our member's name and the other members' addresses, when the list of a quorum has us as a healthy voter.
fn voter(seen: Seen<'_>) -> Option<(String, Vec<Ipv4Addr>)> {
    let own = seen.own;
    if own.learner || !own.healthy || own.leader.is_none() {
        return None;
    }
    let members = own.members.as_ref().ok()?;
    let listed = members.iter().find(|member| member.id == own.member_id && !member.learner)?;
    let name = seen.disk.member_name.clone()?;
    if listed.name.as_ref() != Some(&name) || !is_member_of(&name, seen.node) {
        return None;
    }
    let mut peers: Vec<_> =
        members.iter().filter(|member| member.id != own.member_id).filter_map(|member| member.peer).collect();
    peers.sort_unstable();
    Some((name, peers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::Cluster;
    use muster_protocol::etcd::{DataFacts, EtcdMember, Identity};
    use muster_protocol::ids::Digest;

    const NAME: &str = "mini-pc-2-1a2b3c4d";

    fn identity(cluster_id: u64) -> Identity {
        Identity { ca: Digest([1; 32]), cluster_id }
    }

    fn member(n: u8, learner: bool) -> EtcdMember {
        let name = format!("mini-pc-{n}-1a2b3c4d");
        EtcdMember { id: u64::from(n), name: Some(name), peer: Some(Cluster::address(n)), learner }
    }

    fn own() -> OwnMember {
        OwnMember {
            identity: Some(identity(7)),
            member_id: 2,
            learner: false,
            leader: Some(1),
            healthy: true,
            ready: false,
            members: Ok(vec![member(1, false), member(2, false)]),
            connected: vec![],
        }
    }

    fn kept(record: GateRecord) -> Kept {
        Kept { fence: Cluster::number(5), record, expected: Some(identity(7)), peers: vec![], started: true }
    }

    fn joining() -> GateRecord {
        GateRecord::Joining { fence: Cluster::number(5) }
    }

    fn run(kept: &Kept, own: &OwnMember, told: Option<&GateRecord>) -> Result<Option<Kept>, String> {
        let data = DataFacts { wal: true, ..DataFacts::default() };
        let disk = Disk { data, wal_is_empty: false, member_name: Some(NAME.into()) };
        let node = Cluster::name(2);
        next(kept, Seen { node: &node, address: Cluster::address(2), disk: &disk, own, told })
    }

    #[test]
    fn a_joiner_seen_as_a_healthy_voter_becomes_a_member() {
        let next = run(&kept(joining()), &own(), None).unwrap().unwrap();
        let record =
            GateRecord::Member { identity: identity(7), name: NAME.into(), address: Cluster::address(2) };
        assert_eq!(next.record, record);
        assert_eq!(next.peers, [Cluster::address(1)]);
        assert_eq!(next.fence, Cluster::number(5));
    }

    #[test]
    fn a_learner_or_a_half_seen_voter_does_not() {
        let not_yet: [&dyn Fn(&mut OwnMember); 6] = [
            &|own| own.learner = true,
            &|own| own.healthy = false,
            &|own| own.leader = None,
            &|own| own.members = Err("context deadline exceeded".into()),
            &|own| own.members = Ok(vec![member(1, false), member(2, true)]),
            &|own| own.identity = None,
        ];
        for (at, change) in not_yet.iter().enumerate() {
            let mut own = own();
            change(&mut own);
            assert_eq!(run(&kept(joining()), &own, None), Ok(None), "{at}");
        }
    }

    #[test]
    fn a_joiner_in_another_cluster_is_no_member() {
        let mut other = own();
        other.identity = Some(identity(8));
        assert!(run(&kept(joining()), &other, None).is_err());
    }

    #[test]
    fn an_init_becomes_a_member_after_the_provisioner_saw_it_begin() {
        let record = GateRecord::Initialising { nonce: [3; 16] };
        assert_eq!(run(&kept(record.clone()), &own(), None), Ok(None));
        assert_eq!(run(&kept(record.clone()), &own(), Some(&GateRecord::Fresh)), Ok(None));
        assert!(run(&kept(record.clone()), &own(), Some(&record)).unwrap().is_some());
    }

    #[test]
    fn a_member_keeps_its_identity_and_learns_its_peers() {
        let member = run(&kept(joining()), &own(), None).unwrap().unwrap();
        assert_eq!(run(&member, &own(), None), Ok(None));
        let mut more = own();
        more.members = Ok((1..=3).map(|n| self::member(n, false)).collect());
        let peers = run(&member, &more, None).unwrap().unwrap().peers;
        assert_eq!(peers, [Cluster::address(1), Cluster::address(3)]);
        more.identity = Some(identity(9));
        assert!(run(&member, &more, None).is_err());
    }

    #[test]
    fn a_member_in_no_list_was_removed_and_silence_removes_nobody() {
        let data = DataFacts { wal: true, ..DataFacts::default() };
        let disk = Disk { data, wal_is_empty: false, member_name: Some(NAME.into()) };
        let outside =
            |n, members| Outside { address: Cluster::address(n), peer_port: true, ca: None, members };
        let removed = |outside: &[Outside]| is_removed(&kept(joining()), &disk, outside, Cluster::address(2));
        let without = || outside(1, Ok(vec![member(1, false), member(3, false)]));
        let with = || outside(3, Ok(vec![member(1, false), member(2, true)]));
        let silent = || outside(3, Err("context deadline exceeded".into()));
        assert!(removed(&[without(), silent()]));
        assert!(!removed(&[without(), with()]));
        assert!(!removed(&[silent()]) && !removed(&[]));
        let initialising = kept(GateRecord::Initialising { nonce: [1; 16] });
        assert!(!is_removed(&initialising, &disk, &[without()], Cluster::address(2)));
        assert!(!is_removed(&kept(joining()), &Disk::default(), &[without()], Cluster::address(2)));
    }
}
