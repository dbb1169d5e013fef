//! Joins that are cut at the worst moment, of the joiner and of the provisioner. No hand helps but those that do the harm.

use crate::copies::an_old_store_in_the_middle_of_a_join_changes_nothing;
use crate::lab::Lab;
use crate::machine::name;

/// Two stories at once, each on its own LAN: they mostly wait, and the test harness starts no more than there are processors.
#[test]
fn a_join_that_is_cut_or_forgotten_ends_with_three_voters() {
    std::thread::scope(|both| {
        both.spawn(an_old_store_in_the_middle_of_a_join_changes_nothing);
        a_join_that_is_cut_ends_with_three_voters();
    });
}

fn a_join_that_is_cut_ends_with_three_voters() {
    let Some(mut lab) = Lab::new('b', 3) else { return };
    a_learner_is_killed_beside_one_voter_and_the_next_right_after_its_add(&mut lab);
    a_learner_is_killed_beside_two_voters_and_starts_with_nobody_to_ask(&mut lab);
    the_provisioner_is_killed_while_one_joins_and_another_waits(&mut lab);
    lab.nothing_went_wrong();
}

/// The first member list that shows a joiner with a started etcd tells which of the two it is.
fn joiner(lab: &Lab) -> Option<u8> {
    [2, 3]
        .into_iter()
        .find(|n| lab.listed(1, *n).is_some_and(|member| member.learner && member.name.is_some()))
}

/// It hears a leader, and every voter has heard it for 5 s: its log is in step. Killed earlier it would be no candidate for
/// promotion but for eviction.
fn in_step(lab: &Lab, voters: &[u8], n: u8) -> bool {
    let Some(learner) = lab.own(n).filter(|own| own.learner && own.leader.is_some()) else { return false };
    let heard = |by: &u8| lab.own(*by).is_some_and(|own| own.connected.contains(&learner.member_id));
    voters.iter().all(heard)
}

/// The leader of these promoted it, so often.
fn promotions(lab: &Lab, by: &[u8], n: u8) -> usize {
    let said = format!("Promoted learner {}-", name(n));
    by.iter().map(|by| lab.machine(*by).said(&said)).sum()
}

/// A killed learner is promoted all the same, and with one voter before the quorum is gone at once: only the joiner's own disk
/// brings it back. The next joiner dies between its entry in the list and the start of its etcd.
fn a_learner_is_killed_beside_one_voter_and_the_next_right_after_its_add(lab: &mut Lab) {
    lab.trap(&[1], Some("promotion-waits"));
    (1..=3).for_each(|n| lab.power_on(n));
    lab.wait("one is a learner beside one voter", |lab| joiner(lab).is_some());
    let joiner = joiner(lab).unwrap();
    let other = 5 - joiner;
    lab.wait("it is in step", |lab| in_step(lab, &[1], joiner));
    holds_the_lock(lab, joiner, "as a learner in step");
    lab.power_off(joiner);
    lab.trap(&[1], None);
    lab.wait("the dead learner is promoted", |lab| promotions(lab, &[1], joiner) == 1);
    holds_the_lock(lab, joiner, "as a dead voter");
    assert_eq!(lab.starts(other), 0, "{} waits for its turn", name(other));
    // From here on nobody is promoted and nobody evicted: the next must get on by its own grant, not by being taken out of
    // the list and added anew.
    lab.trap(&[1, joiner], Some("promotion-waits"));
    lab.machine(other).trap(Some("join-stops-after-add"));
    lab.power_on(joiner);
    lab.wait("started again it is the second voter, and the next is added", |lab| {
        let added = lab.listed(1, other).is_some_and(|member| member.name.is_none());
        added && lab.machine(other).said("stopped after the member add") == 1
    });
    let entry = lab.listed(1, other).map(|member| member.id);
    lab.wait("the provisioner knows the entry", |lab| lab.home.lists(entry));
    holds_the_lock(lab, other, "as an entry in the list");
    lab.power_off(other);
    lab.machine(other).trap(None);
    lab.power_on(other);
    lab.wait("started again it is a learner in step", |lab| in_step(lab, &[1, joiner], other));
    assert_eq!(lab.listed(1, other).map(|member| member.id), entry, "under its first entry");
    holds_the_lock(lab, other, "as a learner in step");
    lab.trap(&[1, joiner], None);
    lab.wait("it is the third voter", Lab::three_voters);
    lab.wait("all are ready", |lab| (1..=3).all(|n| lab.is_ready(n)));
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
}

/// With the provisioner killed as well: a learner's own disk is all that it needs.
fn a_learner_is_killed_beside_two_voters_and_starts_with_nobody_to_ask(lab: &mut Lab) {
    lab.power_off(3);
    lab.remove_member(1, 3);
    lab.trap(&[1, 2], Some("promotion-waits"));
    let before = promotions(lab, &[1, 2], 3);
    lab.power_on(3);
    lab.wait("it is a learner beside two voters", |lab| joiner(lab) == Some(3));
    lab.wait("it is in step", |lab| in_step(lab, &[1, 2], 3));
    holds_the_lock(lab, 3, "as a learner in step");
    lab.home.kill_9();
    lab.power_off(3);
    let starts = lab.starts(3);
    lab.trap(&[1, 2], None);
    lab.wait("the dead learner is promoted", |lab| promotions(lab, &[1, 2], 3) == before + 1);
    lab.power_on(3);
    lab.wait("started again with nobody to ask it is the third voter", Lab::three_voters);
    assert!(lab.starts(3) > starts, "by itself");
    lab.home.serve();
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
}

/// Two servers are out and ask at once; one of them gets the lock.
fn the_provisioner_is_killed_while_one_joins_and_another_waits(lab: &mut Lab) {
    lab.wait("three voters", Lab::three_voters);
    lab.trap(&[1], Some("promotion-waits"));
    lab.power_off(3);
    lab.remove_member(1, 3);
    lab.wait("two are left", |lab| lab.voters(&[1, 2]));
    // A live one: it finds out, and its k3s ends with a tombstone.
    lab.remove_member(1, 2);
    let off = lab.starts(3);
    lab.power_on(3);
    lab.wait("one is a learner", |lab| lab.starts(3) > off && joiner(lab).is_some());
    let joiner = joiner(lab).unwrap();
    let other = 5 - joiner;
    lab.wait("it is in step, the other waits", |lab| in_step(lab, &[1], joiner) && waits(lab, other));
    holds_the_lock(lab, joiner, "as a learner in step");
    let (starts, before) = (lab.starts(other), lab.home.joins_granted());
    lab.home.kill_9();
    lab.home.serve();
    lab.wait("the provisioner knows the lock, the other waits", |lab| waits(lab, other));
    holds_the_lock(lab, joiner, "under the next provisioner");
    assert_eq!((lab.starts(other), lab.home.joins_granted()), (starts, before));
    lab.trap(&[1], None);
    lab.wait("three voters", Lab::three_voters);
    lab.wait("all are ready", |lab| (1..=3).all(|n| lab.is_ready(n)));
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
}

/// As the operator is told. A learner in step has been listed for 5 s and an entry was waited for, so the provisioner knows both.
fn holds_the_lock(lab: &Lab, n: u8, what: &str) {
    assert_eq!(lab.home.lock(), Some(name(n).to_string()), "{what}: {:#?}", lab.home.events());
}

/// The operator is told that it waits for the one that joins.
fn waits(lab: &Lab, n: u8) -> bool {
    lab.home.reasons(n).contains("is joining")
}
