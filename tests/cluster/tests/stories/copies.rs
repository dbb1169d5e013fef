//! An older copy of the provisioner's store is put back by hand while a server joins. The store then knows neither the lock
//! nor the join; the nodes know the numbers. Nobody but the person who puts copies there lends a hand.

use crate::lab::Lab;
use crate::machine::name;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

const SERVER: &str = "var/lib/rancher/k3s/server";
const RECORD: &str = "var/lib/muster/gate/record";
/// No machine has it.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

pub(crate) fn an_old_store_in_the_middle_of_a_join_changes_nothing() {
    let Some(mut lab) = Lab::new('c', 3) else { return };
    nothing_is_made_before_every_server_has_answered(&mut lab);
    let one_voter = copy(&mut lab, "one-voter");
    nobody_joins_before_every_server_was_heard(&mut lab);
    let two_voters = copy(&mut lab, "two-voters");
    a_learner_is_promoted_and_the_copy_does_nothing(&mut lab, two_voters);
    one_that_was_added_waits_for_the_newest_copy(&mut lab, one_voter);
    one_whose_lock_was_just_given_joins_once(&mut lab);
    nobody_joins_beside_a_dark_voter_or_a_stranger(&mut lab);
    lab.nothing_went_wrong();
}

/// The provisioner is stopped for it, as a person would.
fn copy(lab: &mut Lab, what: &str) -> PathBuf {
    let copy = lab.folder().join(what);
    lab.home.stop();
    fs::copy(lab.home.store(), &copy).unwrap();
    lab.home.serve();
    copy
}

/// One server alone, and three of which one has data that nobody knows.
fn nothing_is_made_before_every_server_has_answered(lab: &mut Lab) {
    let database = lab.machine(3).path(SERVER).join("db/state.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, "").unwrap();
    lab.power_on(1);
    lab.wait("the first alone waits", |lab| lab.home.reasons(1).contains("mini-pc-2 has not answered"));
    lab.power_on(2);
    lab.power_on(3);
    lab.wait("with data somewhere all wait", |lab| {
        (1..=2).all(|n| lab.home.reasons(n).contains("mini-pc-3 already holds k3s data"))
    });
    assert_eq!((1..=3).map(|n| lab.starts(n)).sum::<usize>(), 0, "{:#?}", lab.home.events());
    // With the first off the cluster is begun and not made: nobody follows before the others are off, too.
    lab.power_off(1);
    fs::remove_file(database).unwrap();
    lab.wait("the first is to make the cluster", |lab| {
        lab.home.events().iter().any(|event| event.contains("mini-pc-1 makes the cluster"))
    });
    lab.power_off(2);
    lab.power_off(3);
    // Their last reports stay fresh for 5 s, and a cluster can be made in less: one of them would get the lock. A new process
    // has heard nobody.
    lab.home.stop();
    lab.home.serve();
    lab.power_on(1);
    lab.wait("it is made", |lab| {
        let picture = lab.home.json(&["status", "-o", "json"]);
        picture["cluster"]["state"] == "up" && picture["cluster"]["lock"].is_null() && lab.voters(&[1])
    });
}

/// The second asks; the third is heard and goes off again, so that it does not follow at once.
fn nobody_joins_before_every_server_was_heard(lab: &mut Lab) {
    lab.power_on(2);
    lab.wait("the third was not heard", |lab| {
        lab.home.reasons(2).contains("mini-pc-3 has not reported since the provisioner started")
    });
    assert_eq!((lab.starts(2), lab.home.joins_granted()), (0, 0));
    lab.power_on(3);
    lab.wait("the second has the lock", |lab| lab.home.lock() == Some(name(2).to_string()));
    lab.power_off(3);
    lab.wait("two are voters", |lab| lab.voters(&[1, 2]) && lab.home.lock().is_none());
}

/// Stopped in order, and a copy from before the join began put back. etcd's leader goes on by itself.
fn a_learner_is_promoted_and_the_copy_does_nothing(lab: &mut Lab, before: PathBuf) {
    lab.trap(&[1, 2], Some("promotion-waits"));
    lab.power_on(3);
    lab.wait("the third is a learner", |lab| {
        lab.listed(1, 3).is_some_and(|member| member.learner && member.name.is_some())
    });
    assert_eq!(lab.home.lock(), Some(name(3).to_string()));
    let (starts, newest) = (lab.starts(3), lab.folder().join("newest-1"));
    lab.home.stop();
    lab.home.swap_store(&before, &newest);
    lab.home.serve();
    let granted = lab.home.joins_granted();
    lab.wait("the copy is known for what it is", is_refused);
    assert_eq!((lab.home.lock(), lab.list(1).len()), (None, 3), "it knows no lock");
    let told = lab.home.refused(&["cluster", "unlock", "--confirm", "lab"]);
    assert!(told.contains("put the newest copy"), "{told}");
    lab.trap(&[1, 2], None);
    lab.wait("three voters", Lab::three_voters);
    assert_eq!((lab.home.joins_granted(), lab.starts(3)), (granted, starts), "nothing was done for it");
    assert!(is_refused(lab), "and a person is still told");
    put_newest_back(lab, newest);
}

/// The copy, from before the second server joined, is put there under a running provisioner, which is then killed. The joiner
/// stands in the list with no etcd and dies as well: without the newest copy nobody may start it.
fn one_that_was_added_waits_for_the_newest_copy(lab: &mut Lab, before: PathBuf) {
    lab.power_off(3);
    lab.remove_member(1, 3);
    lab.machine(3).trap(Some("join-stops-after-add"));
    lab.power_on(3);
    lab.wait("the third is added and its etcd is not started", |lab| {
        lab.listed(1, 3).is_some_and(|member| member.name.is_none())
            && lab.machine(3).said("stopped after the member add") == 1
    });
    let newest = lab.folder().join("newest-2");
    lab.home.swap_store(&before, &newest);
    lab.home.kill_9();
    lab.power_off(3);
    lab.machine(3).trap(None);
    lab.home.serve();
    let starts = lab.starts(3);
    lab.power_on(3);
    lab.wait("the copy is known for what it is, and the third asks in vain", |lab| {
        is_refused(lab) && lab.status(3).is_some_and(|status| status.sequence >= 5) && lab.says(3, "no grant")
    });
    assert_eq!((lab.home.joins_granted(), lab.starts(3)), (0, starts), "no grant was given");
    assert_eq!(lab.list(1).len(), 3, "added once");
    assert!(lab.carry_on(&[1, 2]), "the others carry on");
    put_newest_back(lab, newest);
}

/// The lock is given and the order is on its way, or not: both sides die in that moment. If the joiner took the order, its
/// number gives the copy away; if not, the join is new to all.
fn one_whose_lock_was_just_given_joins_once(lab: &mut Lab) {
    lab.power_off(3);
    lab.remove_member(1, 3);
    let before = copy(lab, "third-removed");
    lab.power_on(3);
    lab.wait("the third has the lock", |lab| lab.home.lock() == Some(name(3).to_string()));
    lab.home.kill_9();
    lab.power_off(3);
    let newest = lab.folder().join("newest-3");
    lab.home.swap_store(&before, &newest);
    lab.home.serve();
    lab.power_on(3);
    lab.wait("refused or joined", |lab| is_refused(lab) || (lab.three_voters() && lab.home.lock().is_none()));
    if lab.home.frozen().is_some() {
        put_newest_back(lab, newest);
    }
}

/// A voter goes dark, with two voters the quorum; then somebody adds a learner that never starts. etcd would refuse a joiner
/// both times: the provisioner says so instead of letting k3s find out.
fn nobody_joins_beside_a_dark_voter_or_a_stranger(lab: &mut Lab) {
    lab.power_off(3);
    lab.remove_member(1, 3);
    let granted = lab.home.joins_granted();
    lab.power_off(2);
    // Blank, it knows itself that it needs a grant; with its old disk it would start and ask the list first.
    lab.machine(3).rename(SERVER, "old-server");
    lab.machine(3).rename(RECORD, "old-record");
    let starts = lab.starts(3);
    lab.power_on(3);
    // Which of them is said first depends on the members' ids and on how soon etcd notices.
    let dark =
        ["mini-pc-2 has not reported for 5 s", "is not healthy", "knows no leader", "is there a quorum?"];
    lab.wait("the third waits for the second", |lab| {
        let reasons = lab.home.reasons(3);
        dark.iter().any(|why| reasons.contains(why))
    });
    lab.power_off(3);
    lab.power_on(2);
    lab.wait("two are voters again", |lab| lab.voters(&[1, 2]));
    // The leader's k3s would evict it.
    lab.trap(&[1, 2], Some("promotion-waits"));
    lab.add_stranger(1, STRANGER);
    lab.power_on(3);
    lab.wait("the third waits for the stranger", |lab| {
        lab.home.reasons(3).contains("is listed but has not started")
    });
    assert_eq!((lab.home.joins_granted(), lab.home.lock(), lab.starts(3)), (granted, None, starts));
    lab.remove_address(1, STRANGER);
    lab.trap(&[1, 2], None);
    lab.wait("three voters", Lab::three_voters);
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
    assert_eq!(lab.home.joins_granted(), granted + 1);
}

/// `cluster status` says that nothing is handed out, why, and what helps.
fn is_refused(lab: &Lab) -> bool {
    let told = lab.home.must(&["cluster", "status"]);
    told.contains("frozen, nothing is handed out") && told.contains("put the newest copy of store.redb back")
}

/// The remedy; what was under way ends.
fn put_newest_back(lab: &mut Lab, newest: PathBuf) {
    lab.home.kill_9();
    fs::rename(newest, lab.home.store()).unwrap();
    lab.home.serve();
    lab.wait("with the newest copy: three voters, the lock is free", |lab| {
        lab.three_voters() && lab.home.lock().is_none()
    });
    assert_eq!(lab.home.frozen(), None);
}
