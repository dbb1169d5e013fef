//! Facts about admission, orders and freezing, with simulated machines.

use super::operator::Refusal;
use super::sim::{Sim, World};
use muster_protocol::hello::{Answer, Seen, wait};
use muster_protocol::ids::{NodeName, Number};
use muster_protocol::signed::{By, Listener};
use muster_protocol::status::State;
use muster_protocol::sync::{ClaimAnswer, Report};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

#[test]
fn a_declared_machine_waits_for_approval_and_is_ordered_after_it() {
    let mut world = World::new().with_artifacts();
    let machine = Sim::new(1, 1);
    assert_eq!(world.wait_code(&machine), wait::NOT_ADMITTED);
    let key = machine.key.public().fingerprint();
    world.core.approve(world.now, world.person(), &name("s1"), key, false).unwrap();
    let order = world.order(&machine);
    assert_eq!((order.node, order.key), (name("s1"), key));
    assert_eq!(order.disk, machine.inventory.disks[0].id);
}

#[test]
fn a_key_that_never_asked_cannot_be_approved() {
    let mut world = World::new();
    let key = Sim::new(9, 1).key.public().fingerprint();
    let refused = world.core.approve(world.now, world.person(), &name("s1"), key, false);
    assert!(matches!(refused, Err(Refusal::NoSuchKey { .. })));
    let refused = world.core.approve(world.now, world.person(), &name("nobody"), key, false);
    assert!(matches!(refused, Err(Refusal::NoSuchMachine(_))));
}

#[test]
fn in_a_window_the_first_key_of_each_machine_is_taken_and_a_second_gets_nothing() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let (first, mut second) = (Sim::new(1, 1), Sim::new(2, 1));
    let order = world.order(&first);
    second.inventory.disks[0].id = first.inventory.disks[0].id.clone();
    assert_eq!(world.wait_code(&second), wait::OTHER_KEY);
    assert!(matches!(world.claim(&second, &order), ClaimAnswer::Refused { .. }));
    let mut request = second.request("s1", 1);
    request.clock_nonce = Some([1; 16]);
    let reply = world.sync(&second, &request);
    assert!(
        reply.manifest.is_none() && reply.roster.is_none() && reply.clock.is_none() && reply.boxes.is_empty()
    );
}

#[test]
fn a_closed_or_expired_window_takes_nobody() {
    let mut world = World::new();
    world.open_window();
    world.core.close_window(world.now, world.person()).unwrap();
    assert_eq!(world.wait_code(&Sim::new(1, 1)), wait::NOT_ADMITTED);
    world.open_window();
    world.pass(31 * 60_000);
    assert_eq!(world.wait_code(&Sim::new(1, 1)), wait::NOT_ADMITTED);
    assert!(matches!(world.core.close_window(world.now, world.person()), Err(Refusal::NoWindow)));
}

#[test]
fn two_live_machines_with_one_mac_are_both_stopped() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let (a, b) = (Sim::new(1, 1), Sim::new(2, 1));
    let order = world.order(&a);
    assert_eq!(world.wait_code(&b), wait::OTHER_KEY);
    assert_eq!(world.wait_code(&a), wait::TWO_MACHINES);
    assert!(matches!(world.claim(&a, &order), ClaimAnswer::Refused { .. }));
    world.pass(60_000);
    assert!(matches!(world.hello(&a), Answer::Install(_)), "the other one went away");
}

#[test]
fn ten_claims_of_one_order_hold_it_once_and_ten_other_keys_get_nothing() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let machine = Sim::new(1, 1);
    let order = world.order(&machine);
    for seed in 10..20 {
        let mut other = machine.clone();
        other.key = Sim::new(seed, 1).key;
        assert!(matches!(world.claim(&other, &order), ClaimAnswer::Refused { .. }));
    }
    let answers: Vec<ClaimAnswer> = (0..10).map(|_| world.claim(&machine, &order)).collect();
    assert!(answers.iter().all(|answer| matches!(answer, ClaimAnswer::Held { .. }) && *answer == answers[0]));
    let view = world.core.store().view().unwrap();
    let held =
        super::events::of(&view, "s1").unwrap().iter().filter(|event| event.what.contains("is held")).count();
    assert_eq!(held, 1);
}

#[test]
fn a_claim_for_another_disk_is_refused() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let machine = Sim::new(1, 1);
    let mut order = world.order(&machine);
    order.disk.serial = Some("OTHER".into());
    assert!(matches!(world.claim(&machine, &order), ClaimAnswer::Refused { .. }));
}

#[test]
fn the_same_order_is_given_again_until_the_disk_says_installed() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut machine = Sim::new(1, 1);
    let order = world.order(&machine);
    assert!(matches!(world.claim(&machine, &order), ClaimAnswer::Held { .. }));
    assert_eq!(world.order(&machine), order);
    machine.install(&world.trust.clone(), order.number);
    assert_eq!(world.hello(&machine), Answer::Boot);
    assert_eq!(world.hello(&machine), Answer::Boot);
    assert!(matches!(world.claim(&machine, &order), ClaimAnswer::Refused { .. }), "it is done");
    // Its disk dies and a blank one takes its place: no second install of itself.
    machine.marker = None;
    assert_eq!(world.wait_code(&machine), wait::INSTALL_BY_HAND);
}

#[test]
fn what_was_answered_is_remembered_by_a_copy_of_the_file_at_that_moment() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut machine = Sim::new(1, 1);
    let order = world.order(&machine);
    let mut killed = world.killed_now("after-order");
    let again = killed.hello(world.now, &machine.asker(), &machine.hello()).unwrap();
    let Answer::Install(again) = again else { panic!("{again:?}") };
    let again = again.verify(By::Online(&world.trust), &Listener::default()).unwrap().into_inner();
    assert_eq!(again, order, "the same order with the same number");
    let held = world.claim(&machine, &order);
    let mut killed = world.killed_now("after-claim");
    let claim = muster_protocol::sync::Claim { order: order.number, disk: order.disk.clone() };
    assert_eq!(killed.claim(world.now, &machine.asker(), &claim).unwrap(), held, "the same manifest, too");
    machine.install(&world.trust.clone(), order.number);
    let report = Report {
        status: machine.status("s1", 1, State::Installing),
        installed: Some(order.number),
        log: Vec::new(),
    };
    world.core.report(world.now, &machine.asker(), &report).unwrap();
    let mut killed = world.killed_now("after-installed");
    machine.marker = None;
    let Answer::Wait(told) = killed.hello(world.now, &machine.asker(), &machine.hello()).unwrap() else {
        panic!()
    };
    assert_eq!(told.code, wait::INSTALL_BY_HAND, "the order is closed");
}

#[test]
fn an_old_copy_of_the_store_freezes_orders_and_cluster_steps() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let (mut first, second) = (Sim::new(1, 1), Sim::new(2, 2));
    world.hello(&second);
    let old = world.folder().join("old.redb");
    std::fs::copy(world.state.store(), &old).unwrap();
    let order = world.order(&first);
    world.claim(&first, &order);
    first.install(&world.trust.clone(), order.number);
    drop(world.core);
    std::fs::copy(&old, world.state.store()).unwrap();
    world.core = super::sim::open(&world.state, &world.trust, &world.state.store());
    // The window in the old copy is still open, so the first machine's key is taken again; its numbers tell.
    assert_eq!(world.hello(&first), Answer::Boot, "an installed machine boots all the same");
    assert_eq!(world.wait_code(&second), wait::FROZEN);
    assert!(matches!(
        world.core.install(world.now, world.person(), &name("s2"), None),
        Err(Refusal::Frozen(_))
    ));
    let mut world = world.restart();
    assert_eq!(world.wait_code(&second), wait::FROZEN, "also after a restart");
    let person = world.person();
    for done in [
        world.core.cluster_without(world.now, person, &name("s2")),
        world.core.cluster_abandon(world.now, person, &name("s1")),
        world.core.cluster_unlock(world.now, person),
    ] {
        assert!(matches!(done, Err(Refusal::Frozen(_))), "{done:?}");
    }
    let picture = world.core.picture(world.now).unwrap();
    let why = picture.cluster.frozen.unwrap();
    assert!(why.contains("old copy") && why.contains("put the newest copy"), "{why}");
}

#[test]
fn a_strangers_high_numbers_freeze_for_a_while_only() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    world.hello(&Sim::new(1, 1));
    let mut liar = Sim::new(9, 1);
    liar.seen = Seen { manifest: Number { delegation: 9, generation: 9, n: 9 }, ..Seen::default() };
    assert_eq!(world.wait_code(&liar), wait::OTHER_KEY);
    assert_eq!(world.wait_code(&Sim::new(2, 2)), wait::FROZEN);
    world.pass(350_000);
    assert_eq!(world.wait_code(&liar), wait::OTHER_KEY, "it says so again");
    world.pass(350_000);
    assert_eq!(world.wait_code(&liar), wait::OTHER_KEY, "and again");
    assert!(matches!(world.hello(&Sim::new(2, 2)), Answer::Install(_)));
}

#[test]
fn a_store_deleted_while_machines_are_installed_lets_them_boot_on() {
    let mut world = World::new();
    let mut machine = Sim::new(1, 1);
    let order = Number { delegation: 1, generation: 0, n: 500 };
    machine.install(&world.trust.clone(), order);
    assert_eq!(world.hello(&machine), Answer::Boot, "not admitted, nothing known");
    let mut stranger = Sim::new(3, 77);
    stranger.install(&world.trust.clone(), order);
    assert_eq!(world.hello(&stranger), Answer::Boot, "not even declared");
}

#[test]
fn a_second_provisioner_stops_orders_until_it_is_gone() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    world.core.second_provisioner(world.now, std::net::IpAddr::from([10, 77, 0, 9]));
    assert_eq!(world.wait_code(&Sim::new(1, 1)), wait::FROZEN);
    world.pass(11_000);
    assert!(matches!(world.hello(&Sim::new(1, 1)), Answer::Install(_)));
}

#[test]
fn a_disk_with_data_needs_the_plan_id_that_was_shown() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut machine = Sim::new(1, 1);
    let contents = machine.inventory.disks[0].contents.as_mut().unwrap();
    contents.empty = false;
    contents.found = vec!["ext4".into()];
    assert_eq!(world.wait_code(&machine), wait::DISK_NOT_EMPTY);
    let refused = world.core.install(world.now, world.person(), &name("s1"), None);
    assert!(matches!(refused, Err(Refusal::Order(_))));
    let plan = crate::cluster::disks::plan_of(&machine.inventory.disks[0]).unwrap();
    world.core.install(world.now, world.person(), &name("s1"), Some(plan)).unwrap();
    let order = world.order(&machine);
    assert_eq!(order.wipe, muster_protocol::order::Wipe::Plan(plan));
}

#[test]
fn an_operators_order_supersedes_a_held_one_with_a_higher_number() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut machine = Sim::new(1, 1);
    let old = world.order(&machine);
    world.claim(&machine, &old);
    machine.inventory.disks[0].id.serial = Some("NEW".into());
    assert_eq!(world.wait_code(&machine), wait::NO_DISK);
    world.core.install(world.now, world.person(), &name("s1"), None).unwrap();
    let new = world.order(&machine);
    assert!(new.number > old.number);
    let ClaimAnswer::Refused { reason } = world.claim(&machine, &old) else { panic!() };
    assert!(reason.contains("superseded"), "{reason}");
}

#[test]
fn a_lost_key_is_replaced_before_install_and_not_by_accident_after_it() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut old = Sim::new(1, 1);
    let order = world.order(&old);
    world.pass(60_000);
    let new = Sim::new(2, 1);
    let print = new.key.public().fingerprint();
    assert_eq!(world.wait_code(&new), wait::OTHER_KEY);
    world.core.approve(world.now, world.person(), &name("s1"), print, false).unwrap();
    assert!(world.order(&new).number > order.number);
    assert!(matches!(world.claim(&old, &order), ClaimAnswer::Refused { .. }));
    old.key = new.key.clone();
    old.install(&world.trust.clone(), order.number);
    world.hello(&old);
    let third = Sim::new(3, 1);
    world.pass(60_000);
    world.hello(&third);
    let print = third.key.public().fingerprint();
    let refused = world.core.approve(world.now, world.person(), &name("s1"), print, false);
    assert!(matches!(refused, Err(Refusal::Installed { .. })));
    world.core.approve(world.now, world.person(), &name("s1"), print, true).unwrap();
}

#[test]
fn a_flood_of_keys_does_not_push_out_one_that_is_alive() {
    let mut world = World::new();
    let machine = Sim::new(1, 1);
    world.hello(&machine);
    for seed in 20..60 {
        world.hello(&Sim::new(seed, 1));
    }
    let print = machine.key.public().fingerprint();
    let picture = world.core.picture(world.now).unwrap();
    assert_eq!(picture.machines[0].pending.len(), 8);
    assert!(picture.machines[0].pending.iter().any(|pending| pending.key == print.to_string()));
    world.pass(200_000);
    let late = Sim::new(99, 1);
    world.hello(&late);
    let picture = world.core.picture(world.now).unwrap();
    let print = late.key.public().fingerprint().to_string();
    assert!(
        picture.machines[0].pending.iter().any(|pending| pending.key == print),
        "those that went away make room"
    );
}
