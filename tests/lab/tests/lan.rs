//! The LAN: addresses from the foreign server, loss, and nothing left behind however the owner ends.

#![allow(clippy::unwrap_used, reason = "a test may unwrap, its helpers too")]

mod support;

use muster_lab::child::run;
use muster_lab::lan::{Depth, Lan, Place, Plan, Subnet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const TOOLS: &[&str] = &["ip", "ethtool", "dnsmasq", "tcpdump", "nft", "ss"];

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

fn namespaces() -> String {
    let mut list = Command::new("ip");
    list.args(["netns", "list"]);
    run(list).unwrap()
}

#[test]
fn the_provisioner_s_place_reaches_the_foreign_server_and_a_dropped_lan_is_gone() {
    if !support::can("the_provisioner_s_place_…", true, &[TOOLS, &["ping"]].concat()) {
        return;
    }
    let folder = support::folder("lan-drop");
    let lan = lan(folder.clone());
    let mut ping = lan.exec_in(Place::Provisioner, "ping");
    ping.args(["-c", "1", "-W", "5", "10.77.0.2"]);
    run(ping).unwrap();
    let (prefix, sockets) = (lan.prefix().to_owned(), lan.sockets().to_owned());
    assert!(namespaces().contains(&prefix) && sockets.exists());
    let mut sleeper = lan.exec_in(Place::Bridge, "sleep");
    let mut sleeper = sleeper.arg("1000").spawn().unwrap();
    drop(lan);
    // what ran in the LAN went with it
    assert!(!sleeper.wait().unwrap().success());
    assert!(!namespaces().contains(&prefix) && !sockets.exists());
    assert!(folder.join("lan.pcap").metadata().unwrap().len() > 200);
}

#[test]
fn a_client_gets_its_lease_and_the_provisioner_as_router_from_the_foreign_server() {
    if !support::can("a_client_gets_its_lease_…", true, &[TOOLS, &["udhcpc"]].concat()) {
        return;
    }
    let folder = support::folder("lan-dhcp");
    let lan = lan(folder.clone());
    let script = folder.join("bound");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] && echo \"got $ip via $router ntp $ntpsrv\"\nexit 0\n",
    )
    .unwrap();
    run({
        let mut chmod = Command::new("chmod");
        chmod.arg("755").arg(&script);
        chmod
    })
    .unwrap();
    let mut client = lan.exec_in(Place::Provisioner, "udhcpc");
    client.args(["-i", "eth0", "-n", "-q", "-f", "-t", "5", "-s"]).arg(&script);
    let text = run(client).unwrap();
    assert!(text.contains("got 10.77.0.1") && text.contains("via 10.77.0.1 ntp 10.77.0.1"), "{text}");
}

#[test]
fn all_packets_of_a_port_can_be_lost_and_found_again() {
    if !support::can("all_packets_of_a_port_can_be_lost_…", true, TOOLS) {
        return;
    }
    let lan = lan(support::folder("lan-loss"));
    let port = lan.port().unwrap();
    for percent in [100, 20, 20, 0] {
        lan.lose_packets(&port, percent).unwrap();
        let mut list = lan.exec_in(Place::Bridge, "nft");
        list.args(["list", "ruleset"]);
        let rules = run(list).unwrap();
        let rule =
            if percent == 100 { "drop".into() } else { format!("numgen random mod 100 < {percent} drop") };
        let wanted = if percent == 0 { 0 } else { 2 };
        assert_eq!(rules.matches(&rule).count(), wanted, "{rules}");
    }
    lan.link(&port, false).unwrap();
    lan.link(&port, true).unwrap();
}

/// A run of `lab` that does not outlive its test.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `lab run -- sh -c 'echo up; sleep'` with nothing switched on: a LAN with a program in it.
fn owner(test: &str) -> (Owner, String) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/cluster.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command
        .args(["run", "--off", "--only", "mini-pc-1", "--config", config, "--folder"])
        .arg(support::folder(test));
    command.args(["--", "sh", "-c", "ip netns identify; exec sleep 1000"]);
    let mut owner = Owner(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(owner.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let prefix = line.trim().strip_suffix("-prov").expect("name of the provisioner's namespace").to_owned();
    assert!(namespaces().contains(&prefix));
    (owner, prefix)
}

/// Its exit code, or `None` when it does not end.
fn ended_within(child: &mut Child, seconds: u64) -> Option<i32> {
    for _ in 0..seconds * 20 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        nix::poll::poll(&mut [], 50_u16).unwrap();
    }
    None
}

#[test]
fn sigterm_leaves_nothing_behind() {
    if !support::can("sigterm_leaves_nothing_behind", true, TOOLS) {
        return;
    }
    let (mut owner, prefix) = owner("lan-term");
    kill(Pid::from_raw(owner.0.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(ended_within(&mut owner.0, 20), Some(1));
    assert!(!namespaces().contains(&prefix));
}

#[test]
fn the_next_lan_removes_what_a_killed_owner_left() {
    if !support::can("the_next_lan_removes_what_a_killed_owner_left", true, TOOLS) {
        return;
    }
    let (mut owner, prefix) = owner("lan-kill");
    owner.0.kill().unwrap();
    owner.0.wait().unwrap();
    assert!(namespaces().contains(&prefix));
    drop(lan(support::folder("lan-next")));
    assert!(!namespaces().contains(&prefix));
}
