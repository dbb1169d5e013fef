//! Init, once ever: who keeps it from beginning, who gets the grant, and what ends it.

use crate::scene::{
    Change, FENCE, IDENTITY, NEWEST, OTHER, Obstacle, Scene, member, name, node_seen, outside, own,
};
use muster::cluster::record::{Cluster, Purpose};
use muster_protocol::etcd::{EtcdMember, GateRecord};
use muster_protocol::grant::Start;
use muster_protocol::ids::Number;

#[test]
fn where_all_are_blank_the_first_makes_the_cluster_from_the_saved_record_and_nobody_else_gets_a_grant() {
    let mut scene = Scene::blank();
    let decision = scene.decide();
    assert!(decision.grants.is_empty());
    scene.record = decision.record.unwrap();
    let lock = scene.record.lock.clone().unwrap();
    assert_eq!((&lock.holder, lock.purpose), (&name(1), Purpose::Init));
    let Cluster::Initialising { node, nonce, installation } = &scene.record.cluster else { panic!() };
    assert_eq!((node, *installation), (&name(1), FENCE));
    let init = Start::Init { nonce: *nonce, installation: *installation };
    let decision = scene.decide();
    assert_eq!(decision.grants, [(name(1), lock.fence, init)]);
    assert_eq!(decision.record, None, "asked again it is the same init");
}

/// With each the third server alone is no blank one.
const OBSTACLES: &[Obstacle] = &[
    ("silence", |s| drop(s.heard.remove(&name(3))), "mini-pc-3 has not answered"),
    ("a WAL", |s| s.report(3).data.wal = true, "mini-pc-3 already holds k3s data"),
    ("a tombstone", |s| s.report(3).data.tombstone = true, "mini-pc-3 already holds k3s data"),
    ("SQLite", |s| s.report(3).data.state_db = true, "mini-pc-3 already holds k3s data"),
    (
        "an earlier start",
        |s| s.report(3).record = GateRecord::Joining { fence: FENCE },
        "mini-pc-3 was started for a cluster before",
    ),
    (
        "a grant of another time",
        |s| s.report(3).granted = Some(FENCE),
        "mini-pc-3 holds a grant that it has not used yet",
    ),
    ("a running etcd", |s| s.report(3).own = Some(own(3)), "k3s answers on mini-pc-3"),
    (
        "a cluster somewhere",
        |s| s.report(3).outside.push(outside(99, OTHER.ca, &[])),
        "mini-pc-3 sees a cluster at 10.77.0.99",
    ),
    (
        "an old copy of the store",
        |s| s.heard(3).seen_fence = Number { n: NEWEST.n + 1, ..NEWEST },
        "it is an old copy",
    ),
];

#[test]
fn each_obstacle_alone_keeps_the_cluster_from_being_made() {
    for (what, breaks, words) in OBSTACLES {
        let mut scene = Scene::blank();
        breaks(&mut scene);
        let decision = scene.decide();
        assert_eq!((decision.record, decision.grants.len()), (None, 0), "{what}");
        let why = decision.waiting.get(&name(1));
        assert!(why.is_some_and(|why| why.contains(words)), "{what}: {why:?}");
    }
}

#[test]
fn a_person_vouches_for_one_that_cannot_answer() {
    let mut scene = Scene::blank();
    scene.heard.remove(&name(3));
    scene.record.without.push(name(3));
    assert!(matches!(scene.next().cluster, Cluster::Initialising { .. }));
}

#[test]
fn only_the_disk_that_began_it_goes_on() {
    let lost: &[Change] = &[
        ("a disk of another order", |s| s.heard(1).installation = Number { n: FENCE.n + 1, ..FENCE }),
        ("unknown data", |s| s.report(1).data.wal = true),
        ("another init", |s| s.report(1).record = GateRecord::Initialising { nonce: [1; 16] }),
        ("a join", |s| s.report(1).record = GateRecord::Joining { fence: FENCE }),
    ];
    for (what, breaks) in lost {
        let mut scene = Scene::initialising();
        breaks(&mut scene);
        let decision = scene.decide();
        assert_eq!((decision.record, decision.grants.len()), (None, 0), "{what}");
        let why = &decision.waiting[&name(1)];
        assert!(why.contains("hint: muster cluster init --abandon mini-pc-1"), "{what}: {why}");
    }
}

/// Neither silence nor anything that others say makes a second server the first.
#[test]
fn a_first_server_that_went_dark_is_waited_for() {
    let mut scene = Scene::initialising();
    scene.heard.remove(&name(1));
    let decision = scene.decide();
    assert_eq!((decision.record, decision.grants.len()), (None, 0));
    assert!(decision.waiting[&name(2)].contains("mini-pc-1 is making the cluster"));
}

#[test]
fn it_is_made_by_a_voter_that_leads_alone_and_serves_and_by_nothing_less() {
    let less: &[Change] = &[
        ("a learner", |s| s.own(1).learner = true),
        ("no leader", |s| s.own(1).leader = None),
        ("unhealthy", |s| s.own(1).healthy = false),
        ("no API", |s| s.own(1).ready = false),
        ("no Node", |s| s.report(1).nodes.clear()),
        ("a Node that is not ready", |s| s.report(1).nodes = vec![node_seen(1, false)]),
        ("a list with another", |s| s.own(1).members = Ok(vec![member(1), member(2)])),
        ("a list of another", |s| s.own(1).members = Ok(vec![EtcdMember { id: 1, ..member(2) }])),
        ("no list", |s| s.own(1).members = Err("no leader".into())),
    ];
    for (what, breaks) in less {
        let mut scene = Scene::initialising();
        scene.first_leads();
        breaks(&mut scene);
        let next = scene.next();
        assert!(matches!(next.cluster, Cluster::Initialising { .. }) && next.lock.is_some(), "{what}");
    }
    let mut scene = Scene::initialising();
    scene.first_leads();
    let next = scene.next();
    assert_eq!((next.cluster, next.lock), (Cluster::Up { identity: IDENTITY }, None));
}
