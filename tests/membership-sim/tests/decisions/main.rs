//! Single decisions on hand-made evidence: each obstacle alone, and what ends a lock. The histories go through these moments,
//! but other rules of gate and k3s often make a single wrong answer harmless there.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

/// Before there is a cluster.
mod init;
/// The evidence.
mod scene;

use muster::cluster::record::Listed;
use muster_protocol::etcd::{EtcdMember, GateRecord, Identity, ServerReport};
use muster_protocol::grant::{Action, Start};
use muster_protocol::ids::Number;
use scene::{
    FENCE, IDENTITY, NEWEST, NOW_MS, NOW_UNIX, OTHER, Obstacle, STRANGER, Scene, address, blank, heard,
    learner, member, name, node_seen, outside, unstarted,
};

#[test]
fn where_all_is_well_the_one_that_asks_gets_the_lock_first_and_the_grant_from_the_saved_record() {
    let mut scene = Scene::new();
    let decision = scene.decide();
    assert!(decision.grants.is_empty());
    scene.record = decision.record.unwrap();
    let lock = scene.record.lock.clone().unwrap();
    assert_eq!((&lock.holder, lock.listed), (&name(3), Listed::Never));
    let voters = vec![(name(1), address(1)), (name(2), address(2))];
    let join = Start::Join { identity: IDENTITY, voters };
    assert_eq!(scene.decide().grants, [(name(3), lock.fence, join)]);
}

const OBSTACLES: &[Obstacle] = &[
    // The list.
    (
        "a started learner",
        |s| s.also_listed(EtcdMember { peer: Some(address(STRANGER)), ..learner(9) }),
        "still a learner",
    ),
    ("an unstarted stranger", |s| s.also_listed(unstarted(STRANGER)), "is listed but has not started"),
    ("a started stranger", |s| s.also_listed(member(STRANGER)), "is listed but not declared"),
    (
        "it is listed by name",
        |s| s.also_listed(EtcdMember { peer: None, ..member(3) }),
        "etcd on mini-pc-3 does not answer",
    ),
    ("it is listed by address", |s| s.also_listed(unstarted(3)), "is listed but has not started"),
    ("two lists", |s| s.own(2).members = Ok(vec![member(2)]), "list different members"),
    ("no list", |s| (1..=2).for_each(|n| s.own(n).members = Err("no leader".into())), "is there a quorum?"),
    // The voters.
    ("a voter without etcd", |s| s.report(2).own = None, "etcd on mini-pc-2 does not answer"),
    ("a voter of 6 s ago", |s| s.heard(2).at_ms = NOW_MS - 6_000, "mini-pc-2 has not reported for 5 s"),
    ("an unhealthy voter", |s| s.own(2).healthy = false, "etcd on mini-pc-2 is not healthy"),
    ("one that calls itself a learner", |s| s.own(2).learner = true, "does not see itself as the voter"),
    ("one with another id", |s| s.own(2).member_id = 8, "does not see itself as the voter"),
    ("no leader", |s| s.own(2).leader = None, "mini-pc-2 knows no leader"),
    ("two leaders", |s| s.own(2).leader = Some(2), "different leaders"),
    ("voters apart", |s| s.own(2).connected.clear(), "mini-pc-2 is not connected to mini-pc-1"),
    (
        "another cluster's id",
        |s| s.own(2).identity = Some(Identity { cluster_id: 8, ..IDENTITY }),
        "in another cluster",
    ),
    (
        "another CA somewhere",
        |s| s.report(3).outside.push(outside(STRANGER, OTHER.ca, &[])),
        "sees another cluster",
    ),
    // The joiner.
    ("SQLite", |s| s.report(3).data.state_db = true, "SQLite"),
    ("unknown data", |s| s.report(3).data.wal = true, "did not make"),
    (
        "another cluster's disk",
        |s| {
            s.report(3).record = GateRecord::Member { identity: OTHER, name: "x".into(), address: address(3) }
        },
        "member of another cluster",
    ),
    (
        "a cluster of its own",
        |s| s.report(3).record = GateRecord::Initialising { nonce: [1; 16] },
        "began a cluster of its own",
    ),
    // Everybody.
    ("an unknown clock", |s| s.report(3).clock_offset_ms = None, "clock of mini-pc-3 is not known"),
    ("a voter's clock", |s| s.report(1).clock_offset_ms = Some(-1_001), "clock of mini-pc-1 is off"),
    ("no snapshot since the last change", |s| s.record.changed_at = NOW_UNIX, "a snapshot is taken"),
    (
        "the store is an old copy",
        |s| s.heard(1).seen_fence = Number { n: NEWEST.n + 1, ..NEWEST },
        "old copy",
    ),
];

#[test]
fn each_obstacle_alone_keeps_the_lock_away_and_is_named() {
    for (what, breaks, words) in OBSTACLES {
        let mut scene = Scene::new();
        breaks(&mut scene);
        let decision = scene.decide();
        assert_eq!(scene.next().lock, None, "{what}");
        assert!(decision.grants.is_empty(), "{what}");
        let why = decision.waiting.get(&name(3));
        assert!(why.is_some_and(|why| why.contains(words)), "{what}: {why:?}");
    }
}

#[test]
fn a_missing_snapshot_is_ordered_from_the_leader_once() {
    let mut scene = Scene::new();
    (1..=2).for_each(|n| scene.report(n).newest_snapshot = None);
    let commands = scene.decide().commands;
    assert!(
        matches!(commands.as_slice(), [(leader, Action::Snapshot { .. })] if *leader == name(1)),
        "{commands:?}"
    );
}

#[test]
fn a_server_that_was_never_heard_keeps_the_lock_away() {
    let mut scene = Scene::new();
    scene.all_list(&[member(1)]);
    scene.heard.remove(&name(2));
    let decision = scene.decide();
    assert_eq!(scene.next().lock, None);
    assert!(
        decision.waiting[&name(3)].contains("mini-pc-2 has not reported since"),
        "{:?}",
        decision.waiting
    );
}

/// A store that was put back from a copy knows nothing of the lock that it had given since; the node that holds the grant does.
#[test]
fn who_holds_a_grant_that_the_record_does_not_know_goes_first_and_alone() {
    let mut scene = Scene::new();
    scene.all_list(&[member(1)]);
    *scene.report(2) = ServerReport::blank();
    scene.heard(2).wants_grant = true;
    scene.heard(3).wants_grant = true;
    let holder = |scene: &Scene| scene.next().lock.map(|lock| lock.holder);
    assert_eq!(holder(&scene), Some(name(2)), "the first that asks");
    scene.report(3).granted = Some(FENCE);
    assert_eq!(holder(&scene), Some(name(3)), "it gets a newer one");
    scene.heard(3).wants_grant = false;
    assert_eq!(holder(&scene), None, "it is about to start");
    assert_eq!(scene.decide().waiting[&name(2)], "mini-pc-3 joins first");
    scene.heard(3).at_ms = NOW_MS - 60_000;
    assert_eq!(holder(&scene), None, "also when it is dark since");
}

#[test]
fn the_lock_is_its_holders_until_all_list_it_as_a_voter_that_serves() {
    let mut added = Scene::joining(Listed::Never);
    added.also_listed(unstarted(3));
    added.assert_locked("added");
    assert_eq!(added.next().lock.unwrap().listed, Listed::Unstarted);

    let mut started = Scene::joining(Listed::Unstarted);
    started.also_listed(learner(3));
    started.third_runs(true);
    started.assert_locked("a learner");
    assert_eq!(started.next().lock.unwrap().listed, Listed::Started);

    let mut votes = Scene::joining(Listed::Started);
    votes.also_listed(member(3));
    votes.third_runs(false);
    votes.assert_locked("a voter whose Node is not there");
    votes.report(3).nodes = vec![node_seen(3, false)];
    votes.assert_locked("a voter whose Node is not ready");
    votes.report(3).nodes = vec![node_seen(3, true)];
    votes.own(3).ready = false;
    votes.assert_locked("a voter whose API is not ready");
    votes.own(3).ready = true;
    votes.own(1).connected = vec![2];
    votes.assert_locked("a voter that the first does not hear");
    votes.own(1).connected = vec![2, 3];
    votes.heard(3).at_ms = NOW_MS - 6_000;
    votes.assert_locked("a voter that fell silent");
    votes.heard(3).at_ms = NOW_MS;

    let decision = votes.decide();
    assert_eq!(decision.events, ["mini-pc-3 is a voter; the lock is released"]);
    let next = decision.record.unwrap();
    assert_eq!((next.lock, next.changed_at), (None, NOW_UNIX));
}

/// Cut between its entry in the list and the start of its etcd, it has no data: only the grant lets it start again. (The
/// leader's k3s would take the entry out after five minutes, and the join would begin anew.)
#[test]
fn its_own_half_made_membership_is_not_held_against_it() {
    let mut scene = Scene::joining(Listed::Unstarted);
    scene.also_listed(unstarted(3));
    let grants = scene.decide().grants;
    assert!(
        matches!(grants.as_slice(), [(node, FENCE, Start::Join { .. })] if *node == name(3)),
        "{grants:?}"
    );
    scene.assert_locked("added and cut");
    // The same where it started once, and whatever its own etcd lists.
    scene.also_listed(learner(3));
    scene.third_runs(true);
    scene.own(3).members = Ok(vec![member(3)]);
    scene.heard(3).wants_grant = true;
    assert_eq!(scene.decide().grants.len(), 1, "{:?}", scene.decide().waiting);
}

#[test]
fn under_the_lock_the_others_must_be_well_for_each_further_grant() {
    let mut scene = Scene::joining(Listed::Unstarted);
    scene.also_listed(unstarted(3));
    scene.own(2).healthy = false;
    assert!(scene.decide().grants.is_empty());
    scene.assert_locked("beside an unhealthy voter");
}

#[test]
fn a_joiner_that_started_and_was_evicted_gives_the_lock_back() {
    // Also where it is dark meanwhile: its disk was last seen with a WAL, which cannot join anew under this fence.
    let mut dark = Scene::joining(Listed::Started);
    dark.third_runs(true);
    dark.heard(3).at_ms = NOW_MS - 60_000;
    let decision = dark.decide();
    assert_eq!(decision.events, ["mini-pc-3 is gone from every list; the lock is released"]);
    assert_eq!(decision.record.unwrap().lock, None);
    // A disk that was replaced since can, and may be about to: it goes on under its lock. So does one that was not heard yet.
    let mut replaced = Scene::joining(Listed::Started);
    replaced.assert_locked("a disk without data");
    replaced.heard.remove(&name(3));
    replaced.assert_locked("not heard since the provisioner started");
    // Or the voters' lists are older than its newest entry: it has read one itself that is not.
    let mut again = Scene::joining(Listed::Started);
    again.third_runs(true);
    again.report(3).outside = vec![outside(1, IDENTITY.ca, &[member(1), member(2), learner(3)])];
    again.assert_locked("added anew");
    again.heard(3).at_ms = NOW_MS - 6_000;
    again.assert_locked("dark, but only just");
    again.heard(3).at_ms = NOW_MS;
    again.report(3).outside = vec![outside(1, IDENTITY.ca, &[member(1), member(2)])];
    assert_eq!(again.next().lock, None, "it has read that it is gone");
    // Its list was missed, but its disk tells: a WAL under this fence, and a voter's list without it.
    let mut missed = Scene::joining(Listed::Unstarted);
    missed.report(3).data.wal = true;
    missed.report(3).outside = vec![outside(1, IDENTITY.ca, &[member(1), member(2)])];
    assert_eq!(missed.next().lock, None);
    // That list is older than its entry; or it is still there.
    missed.also_listed(learner(3));
    missed.assert_locked("listed after all");
}

#[test]
fn a_joiner_that_never_started_keeps_the_lock_and_tries_again_under_it() {
    for listed in [Listed::Never, Listed::Unstarted] {
        let scene = Scene::joining(listed);
        scene.assert_locked("in no list");
        assert_eq!(scene.decide().grants.len(), 1);
    }
}

/// A record that was restored knows nothing of the join; the joiner's disk does.
#[test]
fn a_join_that_only_its_disk_remembers_is_ended_before_another_begins() {
    let mut scene = Scene::new();
    scene.all_list(&[member(1)]);
    scene.heard.insert(name(2), heard(2, blank()));
    scene.heard(2).wants_grant = true;
    scene.report(3).record = GateRecord::Joining { fence: FENCE };
    assert_eq!(scene.next().lock.unwrap().holder, name(3));
    assert!(scene.decide().waiting[&name(2)].contains("mini-pc-3 joins first"));
}
