//! Each fact about orders, one test.

use super::*;
use crate::config;
use muster_protocol::class::Class;
use muster_protocol::ids::Arch;
use muster_protocol::inventory::{Bus, Contents, Cpu, Dmi, Firmware};
use muster_protocol::order::Order;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const KEY: Fingerprint = Fingerprint([1; 10]);
const IMAGE: Digest = Digest([3; 32]);
const NOW: u64 = 1_000;

fn machine(install: &str) -> Machine {
    let text = format!(
        "[cluster]\nname = \"t\"\ntopology = \"single\"\n[provisioner]\ninterface = \"lo\"\n[k3s]\nversion = \"v1.36.3+k3s1\"\n\
         [[machine]]\nname = \"a\"\nclass = \"mini-pc\"\nrole = \"server\"\naddress = \"10.0.0.1/24\"\nmac = [\"02:00:00:00:00:01\"]\ninstall = \"{install}\"\n"
    );
    config::parse("t", &text).unwrap().machines.remove(0)
}

fn disk(serial: &str, empty: bool) -> Disk {
    Disk {
        name: "nvme0n1".into(),
        id: DiskId { wwn: None, serial: Some(serial.into()), size_bytes: 64 << 30 },
        model: None,
        bus: Bus::Nvme,
        removable: false,
        rotational: false,
        logical_block_bytes: 512,
        contents: Some(Contents {
            empty,
            evidence: Digest::of(serial.as_bytes()),
            found: if empty { Vec::new() } else { vec!["GPT with 3 partitions".into()] },
            busy: false,
        }),
    }
}

fn inventory(disks: Vec<Disk>) -> Inventory {
    Inventory {
        arch: Arch::X86_64,
        dmi: Dmi::default(),
        cpu: Cpu::default(),
        memory_bytes: 0,
        disks,
        nics: Vec::new(),
        pci: Vec::new(),
        firmware: Firmware { uefi: true, secure_boot: None, variables: true },
        kvm: false,
    }
}

fn number(n: u64) -> Number {
    Number { delegation: 1, generation: 0, n }
}

fn row(n: u64, serial: &str, wipe: Wipe, state: OrderState) -> OrderRow {
    let order = Order {
        number: number(n),
        node: "a".parse().unwrap(),
        key: KEY,
        class: Class::MiniPc,
        disk: disk(serial, true).id,
        wipe,
        image: IMAGE,
        uki: IMAGE,
        uki_bytes: 1,
        loader: IMAGE,
        loader_bytes: 1,
        expires_at: NOW + 100,
    };
    OrderRow { order, state, made_unix_ms: 0, by: None }
}

fn held(serial: &str) -> OrderState {
    OrderState::Held { key: KEY, disk: disk(serial, true).id, at_unix_ms: 0 }
}

fn marker(n: u64, installed: bool) -> MarkerSummary {
    MarkerSummary { cluster: CLUSTER, order: number(n), installed, uki: IMAGE, image: IMAGE }
}

struct World {
    machine: Machine,
    inventory: Inventory,
    marker: Option<MarkerSummary>,
    order: Option<OrderRow>,
    image: Result<Digest, &'static str>,
    member: Result<(), &'static str>,
}

impl World {
    fn new(install: &str, disks: Vec<Disk>) -> Self {
        Self {
            machine: machine(install),
            inventory: inventory(disks),
            marker: None,
            order: None,
            image: Ok(IMAGE),
            member: Ok(()),
        }
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            cluster: CLUSTER,
            key: KEY,
            machine: &self.machine,
            inventory: &self.inventory,
            marker: self.marker.as_ref(),
            order: self.order.as_ref(),
            image: self.image,
            member: self.member,
            now_unix: NOW,
        }
    }

    fn next(&self) -> Next {
        next(&self.situation())
    }

    fn code(&self) -> u16 {
        match self.next() {
            Next::Wait(wait) => wait.code,
            other => panic!("{other:?}"),
        }
    }
}

fn plan(serial: &str) -> Wipe {
    Wipe::Plan(disks::plan_of(&disk(serial, false)).unwrap())
}

#[test]
fn an_empty_disk_is_ordered_at_admission() {
    let world = World::new("auto", vec![disk("s", true)]);
    assert_eq!(world.next(), Next::Issue { disk: disk("s", true).id, wipe: Wipe::OnlyEmpty });
    assert_eq!(World::new("manual", vec![disk("s", true)]).code(), wait::INSTALL_BY_HAND);
}

#[test]
fn a_disk_with_anything_on_it_waits_for_a_person_who_saw_the_plan() {
    let world = World::new("auto", vec![disk("s", false)]);
    let Next::Wait(wait) = world.next() else { panic!() };
    assert_eq!(wait.code, wait::DISK_NOT_EMPTY);
    let plan = disks::plan_of(&disk("s", false)).unwrap();
    assert!(wait.reason.contains(&format!("--wipe {plan}")), "{}", wait.reason);
}

#[test]
fn an_installed_disk_boots_even_when_nothing_else_is_known() {
    for order in [
        None,
        Some(row(4, "s", Wipe::OnlyEmpty, OrderState::Open)),
        Some(row(4, "s", Wipe::OnlyEmpty, held("s"))),
    ] {
        let mut world = World::new("auto", vec![disk("s", false)]);
        world.marker = Some(marker(4, true));
        world.order = order;
        world.image = Err("none");
        assert_eq!(world.next(), Next::Boot);
    }
}

#[test]
fn only_a_higher_order_reinstalls_an_installed_disk() {
    let mut world = World::new("auto", vec![disk("s", false)]);
    world.marker = Some(marker(4, true));
    world.order = Some(row(5, "s", plan("s"), OrderState::Open));
    assert_eq!(world.next(), Next::Give(number(5)));
    world.member = Err("x still lists a");
    assert_eq!(world.next(), Next::Boot, "etcd still counts on it");
}

#[test]
fn another_clusters_marker_is_not_ours() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.marker = Some(MarkerSummary { cluster: ClusterId([8; 16]), ..marker(4, true) });
    assert_eq!(world.code(), wait::DISK_NOT_EMPTY);
}

#[test]
fn a_server_still_listed_gets_no_order() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.member = Err("b still lists a");
    assert_eq!(world.code(), wait::MEMBER_STILL_LISTED);
    world.order = Some(row(5, "s", Wipe::OnlyEmpty, held("s")));
    assert_eq!(world.code(), wait::MEMBER_STILL_LISTED);
}

#[test]
fn a_held_order_is_given_again_until_it_is_done() {
    let mut world = World::new("manual", vec![disk("s", false)]);
    world.order = Some(row(5, "s", Wipe::OnlyEmpty, held("s")));
    world.marker = Some(marker(5, false));
    assert_eq!(world.next(), Next::Give(number(5)));
    world.image = Err("images were removed meanwhile");
    assert_eq!(world.next(), Next::Give(number(5)));
}

#[test]
fn a_held_order_for_a_dead_disk_waits_for_a_person() {
    let mut world = World::new("auto", vec![disk("new", true)]);
    world.order = Some(row(5, "old", Wipe::OnlyEmpty, held("old")));
    assert_eq!(world.code(), wait::NO_DISK);
    let (chosen, wipe) = by_hand(&world.situation(), None).unwrap();
    assert_eq!((chosen, wipe), (disk("new", true).id, Wipe::OnlyEmpty));
}

#[test]
fn a_done_order_is_not_repeated_for_a_blank_disk() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.order = Some(row(5, "s", Wipe::OnlyEmpty, OrderState::Done { at_unix_ms: 1 }));
    assert_eq!(world.code(), wait::INSTALL_BY_HAND);
}

#[test]
fn an_open_order_follows_a_new_image_and_an_exchanged_disk() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.order = Some(row(5, "s", Wipe::OnlyEmpty, OrderState::Open));
    assert_eq!(world.next(), Next::Give(number(5)));
    world.image = Ok(Digest([4; 32]));
    assert!(matches!(world.next(), Next::Issue { .. }));
    world.image = Ok(IMAGE);
    world.inventory = inventory(vec![disk("t", true)]);
    assert_eq!(world.next(), Next::Issue { disk: disk("t", true).id, wipe: Wipe::OnlyEmpty });
}

#[test]
fn an_approved_plan_is_void_once_the_disk_changed() {
    let mut world = World::new("manual", vec![disk("s", false)]);
    world.order = Some(row(5, "s", plan("s"), OrderState::Open));
    assert_eq!(world.next(), Next::Give(number(5)));
    world.inventory.disks[0].contents.as_mut().unwrap().evidence = Digest([9; 32]);
    assert_eq!(world.code(), wait::DISK_NOT_EMPTY);
}

#[test]
fn an_order_of_a_replaced_key_is_not_given_to_the_new_one() {
    let mut world = World::new("manual", vec![disk("s", true)]);
    let mut other = row(5, "s", Wipe::OnlyEmpty, OrderState::Open);
    other.order.key = Fingerprint([9; 10]);
    world.order = Some(other);
    assert_eq!(world.code(), wait::INSTALL_BY_HAND);
}

#[test]
fn without_an_image_nothing_is_ordered() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.image = Err("no node image for x86_64");
    assert_eq!(world.code(), wait::NO_IMAGE);
    assert!(matches!(by_hand(&world.situation(), None), Err(Refused::NoImage { .. })));
}

#[test]
fn a_machine_without_uefi_waits() {
    let mut world = World::new("auto", vec![disk("s", true)]);
    world.inventory.firmware.uefi = false;
    assert_eq!(world.code(), wait::NO_UEFI);
}

#[test]
fn a_claim_takes_an_open_order_once_and_is_answered_again() {
    let id = disk("s", true).id;
    let ask = |row: &OrderRow, key, disk: &DiskId| claim(row.order.number, Some(row), key, disk, NOW);
    let open = row(5, "s", Wipe::OnlyEmpty, OrderState::Open);
    assert_eq!(ask(&open, KEY, &id), Ok(Claim::Take));
    assert_eq!(ask(&open, Fingerprint([9; 10]), &id), Err(ClaimRefused::OtherKey(number(5))));
    assert_eq!(ask(&open, KEY, &disk("t", true).id), Err(ClaimRefused::OtherDisk(number(5))));
    assert_eq!(ask(&row(5, "s", Wipe::OnlyEmpty, held("s")), KEY, &id), Ok(Claim::Again));
    let done = row(5, "s", Wipe::OnlyEmpty, OrderState::Done { at_unix_ms: 0 });
    assert_eq!(ask(&done, KEY, &id), Err(ClaimRefused::Done(number(5))));
    let old = row(5, "s", Wipe::OnlyEmpty, OrderState::Superseded { by: number(6) });
    assert_eq!(ask(&old, KEY, &id), Err(ClaimRefused::Superseded(number(5), number(6))));
    assert_eq!(claim(number(8), None, KEY, &id, NOW), Err(ClaimRefused::Unknown(number(8))));
    assert_eq!(claim(number(5), Some(&open), KEY, &id, NOW + 100), Err(ClaimRefused::Expired(number(5))));
}
