//! One machine of each architecture with nothing to boot: its firmware, its cable, its plug. Needs no image.

#![allow(clippy::unwrap_used, reason = "a test may unwrap, its helpers too")]

mod support;

use muster_lab::fleet::{declared, spec};
use muster_lab::lan::{Depth, Lan, Plan, Subnet};
use muster_lab::machine::{Arch, First, Machine, Mark, Spec};
use muster_lab::stop;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TOOLS: &[&str] = &["ip", "ethtool", "dnsmasq", "tcpdump", "nft", "ss"];
const MINUTE: Duration = Duration::from_secs(60);

fn lan(folder: PathBuf) -> Lan {
    Lan::build(&Plan {
        folder,
        subnet: Subnet::default(),
        foreign_dhcp: true,
        pxe: None,
        capture: Some(Depth::Full),
    })
    .unwrap()
}

fn one(arch: Arch) -> Spec {
    let all = declared(include_str!("../../../examples/cluster.toml")).unwrap();
    let specs = all.iter().enumerate().map(|(place, machine)| spec(machine, place).unwrap());
    Spec { memory_mib: 512, ..specs.into_iter().find(|spec| spec.arch == arch).unwrap() }
}

/// An empty disk must fall through to the network by itself, and the network card must ask the foreign server.
fn asks_the_network(test: &str, arch: Arch, qemu: &str) {
    if !support::can(test, true, &[TOOLS, &[qemu]].concat()) {
        return;
    }
    let folder = support::folder(test);
    let lan = lan(folder.clone());
    let mut machine = Machine::new(&lan, &folder, one(arch)).unwrap();
    machine.power_on(&lan).unwrap();
    machine.wait_console("Start PXE over IPv4", 4 * MINUTE).unwrap();
    foreign_server_said(&folder, "DHCPOFFER(eth0) 10.77.0.1");
    foreign_server_said(&folder, &machine.spec().macs[0]);
    machine.power_off(Duration::ZERO).unwrap();
    assert!(!machine.is_on() && machine.disk(0).unwrap().asked().changes() == 0);
}

/// Waits for words in the log of the foreign DHCP server: the lab has no other witness there.
fn foreign_server_said(folder: &Path, words: &str) {
    let log = folder.join("dnsmasq.log");
    eventually(words, || std::fs::read_to_string(&log).unwrap().contains(words));
}

/// Files give no event to wait for; a busy host gets three minutes.
fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1800 {
        if done() {
            return;
        }
        stop::pause(Duration::from_millis(100)).unwrap();
    }
    panic!("never: {what}");
}

#[test]
fn an_empty_x86_machine_asks_the_network() {
    asks_the_network("an_empty_x86_machine_asks_the_network", Arch::X86_64, "qemu-system-x86_64");
}

#[test]
fn an_empty_arm_machine_asks_the_network() {
    asks_the_network("an_empty_arm_machine_asks_the_network", Arch::Aarch64, "qemu-system-aarch64");
}

#[test]
fn a_pulled_cable_stays_pulled_through_a_power_cycle() {
    let test = "a_pulled_cable_stays_pulled_through_a_power_cycle";
    if !support::can(test, true, &[TOOLS, &["qemu-system-aarch64"]].concat()) {
        return;
    }
    let folder = support::folder(test);
    let lan = lan(folder.clone());
    let mut machine =
        Machine::new(&lan, &folder, Spec { first: First::Network, ..one(Arch::Aarch64) }).unwrap();
    machine.cut_link(&lan).unwrap();
    machine.power_on(&lan).unwrap();
    // EDK2 sees that there is no carrier
    machine.wait_console("Could not detect network connection", 4 * MINUTE).unwrap();
    let cuts = machine.power_cut(1).unwrap();
    assert_eq!(cuts.len(), 1);
    let mark = machine.console().mark();
    machine.power_on(&lan).unwrap();
    machine.wait_console_after(mark, "Could not detect network connection", 4 * MINUTE).unwrap();
    machine.power_off(Duration::ZERO).unwrap();
    machine.plug_link(&lan).unwrap();
    machine.power_on(&lan).unwrap();
    foreign_server_said(&folder, "DHCPOFFER(eth0) 10.77.0.1");
}

#[test]
fn a_lossy_port_drops_what_the_machine_sends() {
    let test = "a_lossy_port_drops_what_the_machine_sends";
    if !support::can(test, true, &[TOOLS, &["qemu-system-aarch64"]].concat()) {
        return;
    }
    let folder = support::folder(test);
    let lan = lan(folder.clone());
    let mut machine = Machine::new(&lan, &folder, one(Arch::Aarch64)).unwrap();
    machine.lose_packets(&lan, 100).unwrap();
    machine.power_on(&lan).unwrap();
    // the capture hears the machine before the loss does
    eventually("a DISCOVER in the capture", || {
        let capture = std::fs::read(folder.join("lan.pcap")).unwrap();
        capture.windows(14).any(|bytes| bytes == b"PXEClient:Arch")
    });
    assert!(!std::fs::read_to_string(folder.join("dnsmasq.log")).unwrap().contains("DHCPDISCOVER"));
    machine.lose_packets(&lan, 0).unwrap();
    // EDK2 asks again after four seconds
    foreign_server_said(&folder, "DHCPDISCOVER");
}

#[test]
fn a_machine_that_is_off_ends_a_wait_at_once() {
    let test = "a_machine_that_is_off_ends_a_wait_at_once";
    if !support::can(test, true, &[TOOLS, &["qemu-system-x86_64"]].concat()) {
        return;
    }
    let folder = support::folder(test);
    let lan = lan(folder.clone());
    let machine = Machine::new(&lan, &folder, one(Arch::X86_64)).unwrap();
    let error =
        machine.console().wait_after(Mark::default(), "anything", 10 * MINUTE).unwrap_err().to_string();
    assert!(error.contains("the machine is off"), "{error}");
    // and a name that cannot be a file is refused
    assert!(Machine::new(&lan, &folder, Spec { name: "../x".into(), ..one(Arch::X86_64) }).is_err());
}
