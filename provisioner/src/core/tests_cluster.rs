//! Membership through the whole core: what servers report, what they are told, and what time does to it.

use super::sim::{Sim, World, ready_node};
use muster_protocol::etcd::{
    DataFacts, EtcdMember, GateRecord, Identity, OwnMember, ServerReport, SnapshotTaken,
};
use muster_protocol::grant::{Action, CommandResult, Grant, Start};
use muster_protocol::ids::{Digest, Number};
use muster_protocol::signed::{By, Listener};
use muster_protocol::sync::SyncReply;
use std::net::Ipv4Addr;

const IDENTITY: Identity = Identity { ca: Digest([1; 32]), cluster_id: 7 };

/// s1 is the cluster, s2 and s3 are installed and blank.
struct Servers {
    world: World,
    sims: Vec<Sim>,
    sequence: u64,
    /// When s1 took its newest snapshot.
    snapshot: Option<u64>,
    /// Everything that s1 was ordered to do, by fence.
    ordered: Vec<(Number, Action)>,
}

impl Servers {
    fn new() -> Self {
        let mut world = World::new().with_artifacts();
        world.open_window();
        let sims: Vec<Sim> = (1..=3).map(|n| Sim::new(n, n)).collect();
        for sim in &sims {
            world.hello(sim);
        }
        let mut servers = Self { world, sims, sequence: 0, snapshot: None, ordered: Vec::new() };
        for n in [3, 2, 1, 1] {
            servers.asks(n);
        }
        servers.first_is_well();
        servers
    }

    fn says(
        &mut self,
        n: usize,
        report: ServerReport,
        wants_grant: bool,
        results: Vec<CommandResult>,
    ) -> SyncReply {
        self.sequence += 1;
        let sim = self.sims[n - 1].clone();
        let mut request = sim.request(&format!("s{n}"), self.sequence);
        request.server = Some(report);
        request.wants_grant = wants_grant;
        request.results = results;
        self.world.sync(&sim, &request)
    }

    /// A blank server that wants to join; tells whether it may.
    fn asks(&mut self, n: usize) -> Option<Grant> {
        let grant = self.says(n, ServerReport::blank(), true, Vec::new()).grant?;
        Some(grant.verify(By::Online(&self.world.trust), &Listener::default()).unwrap().into_inner())
    }

    fn first_is_well(&mut self) {
        self.first_answers(Vec::new());
    }

    fn first_answers(&mut self, results: Vec<CommandResult>) {
        let address = Ipv4Addr::new(10, 77, 0, 11);
        let name = "s1-1a2b3c4d".to_owned();
        let member = EtcdMember { id: 1, name: Some(name.clone()), peer: Some(address), learner: false };
        let own = OwnMember {
            identity: Some(IDENTITY),
            member_id: 1,
            learner: false,
            leader: Some(1),
            healthy: true,
            ready: true,
            members: Ok(vec![member]),
            connected: Vec::new(),
        };
        let report = ServerReport {
            data: DataFacts { wal: true, ..DataFacts::default() },
            record: GateRecord::Member { identity: IDENTITY, name, address },
            unit: "active".into(),
            own: Some(own),
            nodes: vec![ready_node("s1")],
            newest_snapshot: self.snapshot.map(|unix| SnapshotTaken { name: "s".into(), unix }),
            ..ServerReport::blank()
        };
        let reply = self.says(1, report, false, results);
        for command in reply.commands {
            let command =
                command.verify(By::Online(&self.world.trust), &Listener::default()).unwrap().into_inner();
            if self.ordered.iter().all(|(fence, _)| *fence != command.fence) {
                self.ordered.push((command.fence, command.action));
            }
        }
    }

    /// How many snapshots s1 is told to take while each fails and the others go on asking.
    fn fails_for(&mut self, seconds: u64) -> usize {
        let is_snapshot = |(_, action): &&(Number, Action)| matches!(action, Action::Snapshot { .. });
        let before = self.ordered.iter().filter(is_snapshot).count();
        for _ in 0..seconds {
            let failed = |(fence, _): &(Number, Action)| CommandResult {
                fence: *fence,
                outcome: Err("no space left on device".into()),
            };
            self.first_answers(self.ordered.iter().map(failed).collect());
            assert_eq!(self.asks(2), None);
            self.first_is_well();
            assert_eq!(self.asks(3), None);
            self.world.pass(600);
        }
        self.ordered.iter().filter(is_snapshot).count() - before
    }
}

#[test]
fn a_snapshot_that_fails_is_ordered_once_a_minute_for_one_change() {
    let mut servers = Servers::new();
    assert_eq!(servers.fails_for(58), 1);
    assert_eq!(servers.fails_for(60), 1);
    servers.world.core.record.changed_at += 1;
    assert_eq!(servers.fails_for(2), 1, "another change waits for nothing");
}

#[test]
fn after_an_unlock_nobody_joins_before_the_old_holder_has_told_what_it_has() {
    let mut servers = Servers::new();
    servers.snapshot = Some(servers.world.now.unix() + 1);
    servers.first_is_well();
    let first = servers.asks(2).expect("a snapshot is there, and s1 is well");
    assert!(matches!(first.start, Start::Join { .. }));
    let person = servers.world.person();
    servers.world.core.cluster_unlock(servers.world.now, person).unwrap();
    servers.first_is_well();
    assert_eq!(servers.asks(3), None, "s2 may be joining: its grant lies on its disk");
    // It does, indeed: then it goes on first, under a newer fence.
    let holds = ServerReport { granted: Some(first.fence), ..ServerReport::blank() };
    servers.says(2, holds, false, Vec::new());
    servers.first_is_well();
    assert_eq!(servers.asks(3), None);
    // It has lost it, and asks for nothing: then it is the other's turn.
    servers.says(2, ServerReport::blank(), false, Vec::new());
    servers.first_is_well();
    let next = servers.asks(3).expect("s2 has nothing");
    assert!(next.fence > first.fence);
}
