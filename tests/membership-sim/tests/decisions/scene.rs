//! Hand-made evidence: three declared servers, and what befell them.

use muster::cluster::evidence::{Heard, Server, View};
use muster::cluster::membership::{Decision, Fresh, decide};
use muster::cluster::record::{Cluster, Listed, Lock, Purpose, Record};
use muster_protocol::etcd::{
    DataFacts, EtcdMember, GateRecord, Identity, NodeSeen, Outside, OwnMember, ServerReport, SnapshotTaken,
};
use muster_protocol::ids::{Digest, NodeName, Number};
use muster_protocol::keys::Fingerprint;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub(crate) const IDENTITY: Identity = Identity { ca: Digest([1; 32]), cluster_id: 7 };
pub(crate) const OTHER: Identity = Identity { ca: Digest([2; 32]), cluster_id: 7 };
pub(crate) const NOW_MS: u64 = 100_000;
pub(crate) const NOW_UNIX: u64 = 1_800_000_000;
pub(crate) const CHANGED_AT: u64 = NOW_UNIX - 60;
pub(crate) const FENCE: Number = Number { delegation: 1, generation: 0, n: 30 };
pub(crate) const NEWEST: Number = Number { n: 40, ..FENCE };
/// No machine has it.
pub(crate) const STRANGER: u8 = 99;

/// What is otherwise, in words, and the change that makes it so.
pub(crate) type Change = (&'static str, fn(&mut Scene));
/// Likewise, with what is said of it.
pub(crate) type Obstacle = (&'static str, fn(&mut Scene), &'static str);

/// Three declared servers; the first two are well, the third is blank and asks.
pub(crate) struct Scene {
    pub(crate) record: Record,
    pub(crate) heard: BTreeMap<NodeName, Heard>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let list = vec![member(1), member(2)];
        let heard = (1..=3).map(|n| (name(n), heard(n, if n < 3 { voter(n) } else { blank() }))).collect();
        let record = Record {
            cluster: Cluster::Up { identity: IDENTITY },
            changed_at: CHANGED_AT,
            ..Record::default()
        };
        let mut scene = Self { record, heard };
        scene.all_list(&list);
        scene
    }

    /// The third has the lock and was told to join.
    pub(crate) fn joining(listed: Listed) -> Self {
        let mut scene = Self::new();
        scene.record.lock = Some(Lock { holder: name(3), fence: FENCE, purpose: Purpose::Join, listed });
        scene.report(3).record = GateRecord::Joining { fence: FENCE };
        scene
    }

    /// No cluster yet: all three are blank and ask.
    pub(crate) fn blank() -> Self {
        let asks = |n| Heard { wants_grant: true, ..heard(n, blank()) };
        Self { record: Record::default(), heard: (1..=3).map(|n| (name(n), asks(n))).collect() }
    }

    /// The first was told to make it.
    pub(crate) fn initialising() -> Self {
        let scene = Self::blank();
        Self { record: scene.next(), ..scene }
    }

    /// The first has made it.
    pub(crate) fn first_leads(&mut self) {
        let report = self.report(1);
        report.data.wal = true;
        report.record = voter(1).record;
        report.own = Some(OwnMember { members: Ok(vec![member(1)]), ..own(1) });
        report.nodes = vec![node_seen(1, true)];
    }

    pub(crate) fn heard(&mut self, n: u8) -> &mut Heard {
        self.heard.get_mut(&name(n)).unwrap()
    }

    pub(crate) fn report(&mut self, n: u8) -> &mut ServerReport {
        &mut self.heard(n).report
    }

    pub(crate) fn own(&mut self, n: u8) -> &mut OwnMember {
        self.report(n).own.as_mut().unwrap()
    }

    /// Each voter lists these, and sees them connected as long as they have started.
    pub(crate) fn all_list(&mut self, list: &[EtcdMember]) {
        for n in 1..=2 {
            self.own(n).members = Ok(list.to_vec());
            self.own(n).connected =
                list.iter().map(|other| other.id).filter(|id| *id != u64::from(n)).collect();
        }
    }

    pub(crate) fn also_listed(&mut self, more: EtcdMember) {
        self.all_list(&[member(1), member(2), more]);
    }

    /// The third's etcd runs with a WAL and says this of itself.
    pub(crate) fn third_runs(&mut self, learner: bool) {
        let all = vec![member(1), member(2), member(3)];
        let report = self.report(3);
        report.data.wal = true;
        report.own = Some(OwnMember { learner, members: Ok(all), connected: vec![1, 2], ..own(3) });
        self.heard(3).wants_grant = false;
    }

    pub(crate) fn decide(&self) -> Decision {
        let declared = [1, 2, 3].map(|n| Server { name: name(n), address: address(n) });
        let view = View {
            now_ms: NOW_MS,
            now_unix: NOW_UNIX,
            declared: &declared,
            heard: &self.heard,
            newest: NEWEST,
            pending: &[],
        };
        decide(&self.record, &view, &mut Next)
    }

    /// The record after the decision.
    pub(crate) fn next(&self) -> Record {
        self.decide().record.unwrap_or_else(|| self.record.clone())
    }

    /// The lock is still the third's, under the same fence; nothing is said to be over and nobody else is let in.
    pub(crate) fn assert_locked(&self, what: &str) {
        let decision = self.decide();
        let lock =
            self.next().lock.unwrap_or_else(|| panic!("{what}: the lock is free: {:?}", decision.events));
        assert_eq!((lock.holder, lock.fence), (name(3), FENCE), "{what}");
        assert!(decision.events.is_empty(), "{what}: {:?}", decision.events);
        assert!(decision.grants.iter().all(|(node, _, _)| *node == name(3)), "{what}");
    }
}

struct Next;

impl Fresh for Next {
    fn number(&mut self) -> Number {
        Number { n: NEWEST.n + 1, ..NEWEST }
    }
    fn nonce(&mut self) -> [u8; 16] {
        [9; 16]
    }
}

pub(crate) fn name(n: u8) -> NodeName {
    format!("mini-pc-{n}").parse().unwrap()
}

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, n)
}

pub(crate) fn member(n: u8) -> EtcdMember {
    EtcdMember {
        id: n.into(),
        name: Some(format!("mini-pc-{n}-1a2b3c4d")),
        peer: Some(address(n)),
        learner: false,
    }
}

pub(crate) fn learner(n: u8) -> EtcdMember {
    EtcdMember { learner: true, ..member(n) }
}

pub(crate) fn unstarted(n: u8) -> EtcdMember {
    EtcdMember { name: None, ..learner(n) }
}

pub(crate) fn own(n: u8) -> OwnMember {
    OwnMember {
        identity: Some(IDENTITY),
        member_id: n.into(),
        learner: false,
        leader: Some(1),
        healthy: true,
        ready: true,
        members: Ok(Vec::new()),
        connected: Vec::new(),
    }
}

pub(crate) fn blank() -> ServerReport {
    ServerReport { unit: "failed".into(), ..ServerReport::blank() }
}

pub(crate) fn voter(n: u8) -> ServerReport {
    ServerReport {
        data: DataFacts { wal: true, ..DataFacts::default() },
        record: GateRecord::Member { identity: IDENTITY, name: member(n).name.unwrap(), address: address(n) },
        unit: "active".into(),
        own: Some(own(n)),
        newest_snapshot: Some(SnapshotTaken { name: "s".into(), unix: CHANGED_AT + 1 }),
        ..blank()
    }
}

pub(crate) fn heard(n: u8, report: ServerReport) -> Heard {
    Heard {
        at_ms: NOW_MS,
        key: Fingerprint([n; 10]),
        report,
        wants_grant: n == 3,
        installation: FENCE,
        seen_fence: Number::default(),
    }
}

pub(crate) fn outside(n: u8, ca: Digest, list: &[EtcdMember]) -> Outside {
    Outside { address: address(n), peer_port: true, ca: Some(ca), members: Ok(list.to_vec()) }
}

pub(crate) fn node_seen(n: u8, ready: bool) -> NodeSeen {
    NodeSeen {
        name: name(n),
        ready,
        taints: Vec::new(),
        labels: Vec::new(),
        kubelet_version: String::new(),
        runtime_handlers: Vec::new(),
    }
}
