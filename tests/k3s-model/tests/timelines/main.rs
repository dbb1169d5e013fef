//! The recorded timelines of a real k3s, replayed as histories of the model.
//!
//! A timeline was sampled, so it may have missed short states: what it shows must appear in the model's history in the same
//! order, and names are compared without their random suffix.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

/// The model, looked at as the recorder looked at k3s; and the lines of a timeline.
mod recorder;

use k3s_model::config::Config;
use k3s_model::ids::ClusterId;
use k3s_model::numbers::Numbers;
use k3s_model::texts;
use k3s_model::world::{ActionRefused, Event, ListRefused};
use recorder::{A, ALL, B, C, Recorder, init, server, timeline};

#[test]
fn two_joiners_at_once_come_in_one_after_the_other() {
    let mut r = Recorder::new(Numbers::REAL, 1);
    r.start(A, init());
    r.run(20_000);
    r.forget();
    r.look();
    r.start(B, server(A));
    r.run(500);
    r.start(C, server(A));
    r.run(5_000);
    let waiting = r.world.waiting_text(C).unwrap().to_string();
    assert_eq!(waiting, format!("{}: {}", texts::WAITING_TO_JOIN, texts::TOO_MANY_LEARNERS));
    r.run(60_000);
    r.assert_shows(&timeline("two-join-at-once").replace(
        // a joiner without etcd was asked while its proxy waited; the model says `etcd not started` for as long as that lasts
        "mini-pc-3 500: Internal error occurred: failed to get etcd MemberList: context deadline exceeded",
        "mini-pc-3 500: Internal error occurred: failed to get etcd MemberList: etcd not started",
    ));
}

#[test]
fn a_cold_start_with_server_everywhere_brings_all_three_back() {
    let mut r = Recorder::three(Numbers::REAL, 2);
    for s in ALL {
        r.kill(s);
    }
    for (s, via) in [(A, B), (B, C), (C, A)] {
        r.start(s, server(via));
    }
    r.run(30_000);
    let text: String = timeline("cold-start-server-everywhere");
    r.assert_shows(&text);
    assert_eq!(r.voters(A), 3);
}

#[test]
fn deleting_a_node_removes_its_member_and_it_rejoins_wiped() {
    let mut r = Recorder::three(Numbers::REAL, 3);
    r.kill(C);
    r.run(1_000);
    let gone = r.member_of(A, C);
    let now = r.world.now();
    assert_eq!(r.world.delete_node(A, "mini-pc-3", now).unwrap().member, Some(gone));
    r.run(1_000);
    r.world.wipe(C, r.world.now());
    r.start(C, server(A));
    r.run(60_000);
    r.assert_shows(&timeline("delete-node"));
    let from_here = timeline("rejoin-after-delete");
    r.assert_shows(&from_here);
    assert_ne!(r.member_of(A, C), gone);
}

#[test]
fn without_two_of_three_the_survivor_leaves_after_a_minute() {
    let mut r = Recorder::three(Numbers::REAL, 4);
    r.restarts = false;
    r.look();
    let killed = r.world.now();
    r.kill(B);
    r.kill(C);
    r.run(70_000);
    r.assert_shows(&timeline("two-of-three-killed"));
    assert_eq!(r.exits(A), [texts::LEADERELECTION_LOST]);
    let exit = r.events.iter().find_map(|e| match e {
        Event::Exited { at, .. } => Some(at - killed),
        _ => None,
    });
    assert!((60_000..63_000).contains(&exit.unwrap()));
}

#[test]
fn a_killed_learner_is_promoted_and_with_one_voter_the_quorum_is_gone() {
    let mut r = Recorder::new(Numbers::REAL, 5);
    r.restarts = false;
    r.start(A, init());
    r.run(20_000);
    r.start(B, server(A));
    while !r.db_info(A).contains("mini-pc-2[learner]") {
        r.run(250);
    }
    r.kill(B);
    r.forget();
    r.run(90_000);
    assert!(r.events.iter().any(|e| matches!(e, Event::Promoted { member, .. } if member.name.is_some())));
    assert_eq!(r.exits(A), [texts::LEADERELECTION_LOST]);
    // the remedy: the joiner with its disk, then the first server
    r.start(B, server(A));
    r.start(A, server(B));
    r.run(20_000);
    assert_eq!((r.voters(A), r.voters(B)), (2, 2));
}

#[test]
fn a_killed_learner_is_promoted_beside_two_voters() {
    let mut r = Recorder::new(Numbers::REAL, 6);
    r.start(A, init());
    r.run(20_000);
    r.start(B, server(A));
    r.run(40_000);
    r.start(C, server(A));
    while !r.db_info(A).contains("mini-pc-3[learner]") {
        r.run(250);
    }
    r.kill(C);
    r.run(16_000);
    assert_eq!(r.voters(A), 3);
    // and no Node stands for it: see timelines/delete-node-misses.txt
    let now = r.world.now();
    r.world.wipe(C, now);
    r.start(C, server(A));
    r.run(10_000);
    assert!(r.exits(C).iter().all(|t| t.ends_with(texts::DUPLICATE_NAME)) && !r.exits(C).is_empty());
    r.kill(C);
    let now = r.world.now();
    let node = r.world.nodes(A).unwrap()["mini-pc-3"].clone();
    assert_eq!(node.etcd, None);
    assert_eq!(r.world.delete_node(A, "mini-pc-3", now).unwrap().member, None);
    assert_eq!(r.world.delete_node(A, "mini-pc-3", now), Err(ActionRefused::NoSuchNode));
    assert_eq!(r.voters(A), 3);
    let dead = r.member_of(A, C);
    r.world.remove_member(B, dead, now).unwrap();
    r.start(C, server(A));
    r.run(60_000);
    assert_eq!(r.voters(C), 3);
}

#[test]
fn a_member_removed_while_down_stays_without_health() {
    let mut r = Recorder::three(Numbers::REAL, 7);
    r.kill(C);
    let now = r.world.now();
    r.world.delete_node(A, "mini-pc-3", now).unwrap();
    r.start(C, server(A));
    r.run(120_000);
    assert!(timeline("removed-while-down").contains("no tombstone is written; the process stays"));
    assert!(r.exits(C).is_empty() && !r.world.disk(C).tombstone);
    assert!(!r.world.health(C).unwrap().healthy);
    assert_eq!(r.world.member_list_as_seen_by(C), Err(ListRefused::NoQuorum));
    assert_eq!(r.voters(A), 2);
}

#[test]
fn a_live_removed_member_writes_a_tombstone_and_rejoins_by_itself() {
    let mut r = Recorder::three(Numbers::REAL, 8);
    let old = r.member_of(A, C);
    let now = r.world.now();
    r.world.delete_node(A, "mini-pc-3", now).unwrap();
    r.run(60_000);
    assert_eq!(r.exits(C), [texts::REMOVED]);
    assert_eq!(r.voters(C), 3);
    assert_ne!(r.member_of(A, C), old);
}

#[test]
fn a_wiped_first_server_with_its_old_config_splits_with_the_same_ids() {
    let mut r = Recorder::three(Numbers::REAL, 9);
    let (ca, status) = (r.world.cacerts(A).unwrap(), r.world.status(A).unwrap());
    r.kill(A);
    r.world.wipe(A, r.world.now());
    r.start(A, init());
    r.run(30_000);
    let split = r.world.status(A).unwrap();
    assert_eq!((split.cluster, split.member), (status.cluster, status.member));
    assert!(timeline("split-by-cluster-init").contains(&split.cluster.0.to_string()));
    assert_eq!(split.cluster, ClusterId(14_582_655_591_186_328_306));
    assert_ne!(r.world.cacerts(A).unwrap(), ca);
    assert_eq!(r.world.cacerts(B).unwrap(), ca);
    assert_eq!(r.world.identities().len(), 2);
    assert_eq!((r.voters(A), r.voters(B)), (1, 3));
}

#[test]
fn a_restore_on_one_server_splits_with_the_same_ca() {
    let mut r = Recorder::three(Numbers::REAL, 10);
    let status = r.world.status(B).unwrap();
    for s in ALL {
        r.kill(s);
    }
    assert!(r.world.cluster_reset(A, r.world.now()));
    let alone = Config { server: None, cluster_init: false, ..init() };
    r.start(A, alone);
    r.start(B, server(A));
    r.start(C, server(A));
    r.run(30_000);
    assert_eq!(r.world.cacerts(A), r.world.cacerts(B));
    assert_ne!(r.world.status(A).unwrap().cluster, status.cluster);
    assert_eq!(r.world.status(B).unwrap().cluster, status.cluster);
    assert_eq!((r.voters(A), r.voters(B), r.voters(C)), (1, 3, 3));
    assert_eq!(r.world.identities().len(), 2);
}

#[test]
fn a_minority_answers_nothing_and_the_majority_goes_on() {
    let mut r = Recorder::three(Numbers::SCALED, 11);
    let now = r.world.now();
    r.world.partition(&[&[A], &[B, C]], now);
    r.run(20_000);
    assert_eq!(r.world.member_list_as_seen_by(A), Err(ListRefused::NoQuorum));
    assert_eq!(r.voters(B), 3);
    let now = r.world.now();
    r.world.heal(now);
    r.run(20_000);
    assert_eq!(r.voters(A), 3);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| Recorder::three(Numbers::SCALED, seed).world.status(A);
    assert_eq!(history(42), history(42));
}
