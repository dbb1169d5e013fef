//! A LAN of three hosts in network namespaces: the provisioner, the middle that everything passes, the machine.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

pub(crate) const MAC: &str = "02:00:00:00:00:01";
pub(crate) const PROVISIONER: [u8; 4] = [10, 77, 0, 1];
pub(crate) const MIDDLE: [u8; 4] = [10, 77, 0, 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Provisioner,
    Middle,
    Machine,
}

pub(crate) struct Lan {
    name: String,
    dnsmasq: Child,
}

static LANS: AtomicU32 = AtomicU32::new(0);

impl Lan {
    pub(crate) fn new(leases: &Path) -> Self {
        clean_up();
        let name = format!("minst{}-{}", std::process::id(), LANS.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("{name}-lan");
        ip(&format!("netns add {bridge}"));
        ip(&format!("-n {bridge} link add br0 type bridge forward_delay 0 mcast_snooping 0"));
        ip(&format!("-n {bridge} link set br0 up"));
        plug(&name, Host::Provisioner, "52:54:00:00:77:01");
        plug(&name, Host::Middle, "52:54:00:00:77:03");
        plug(&name, Host::Machine, MAC);
        ip(&format!("-n {name}-provisioner address add 10.77.0.1/24 dev eth0"));
        ip(&format!("-n {name}-middle address add 10.77.0.3/24 dev eth0"));
        detour(&name);
        let dnsmasq = dnsmasq(&name, leases);
        Self { name, dnsmasq }
    }

    pub(crate) fn command(&self, host: Host, program: impl AsRef<Path>) -> Command {
        inside(&format!("{}-{}", self.name, word(host)), program.as_ref())
    }

    /// Runs `work` on a thread of this host.
    pub(crate) fn run(&self, host: Host, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let namespace = File::open(format!("/run/netns/{}-{}", self.name, word(host))).unwrap();
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work();
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _gone = self.dnsmasq.kill();
        let _reaped = self.dnsmasq.wait();
        for host in ["lan", "provisioner", "middle", "machine"] {
            let _gone = Command::new("ip").args(["netns", "del", &format!("{}-{host}", self.name)]).status();
        }
    }
}

fn word(host: Host) -> &'static str {
    match host {
        Host::Provisioner => "provisioner",
        Host::Middle => "middle",
        Host::Machine => "machine",
    }
}

/// Checksums are made in software: the agent's DHCP client reads raw packets.
fn plug(lan: &str, host: Host, mac: &str) {
    let (host, port) = (format!("{lan}-{}", word(host)), word(host));
    ip(&format!("netns add {host}"));
    ip(&format!("-n {host} link set lo up"));
    ip(&format!("-n {lan}-lan link add {port} type veth peer name eth0 address {mac} netns {host}"));
    for (namespace, link) in [(format!("{lan}-lan"), port), (host.clone(), "eth0")] {
        must(inside(&namespace, Path::new("ethtool")).args(["-K", link, "tx", "off", "rx", "off"]));
    }
    ip(&format!("-n {lan}-lan link set {port} master br0 up"));
    ip(&format!("-n {host} link set eth0 up"));
}

/// What the machine sends to the provisioner over TCP goes to the middle. Beacons come straight from the provisioner.
fn detour(lan: &str) {
    let rules = "table ip detour {
        chain out {
            type nat hook output priority -100;
            ip daddr 10.77.0.1 tcp dport { 80, 7480 } dnat to 10.77.0.3
        }
    }";
    let mut nft = inside(&format!("{lan}-machine"), Path::new("nft"));
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft takes the rules");
}

/// The LAN's own DHCP server, which knows nothing of netboot.
fn dnsmasq(lan: &str, leases: &Path) -> Child {
    let mut dnsmasq = inside(&format!("{lan}-middle"), Path::new("dnsmasq"));
    dnsmasq
        .args(["--no-daemon", "--port=0", "--conf-file=/dev/null", "--interface=eth0", "--no-ping"])
        .args([
            "--dhcp-authoritative",
            "--dhcp-range=10.77.0.100,10.77.0.110,255.255.255.0,2h",
            "--user=root",
        ])
        .arg(format!("--dhcp-leasefile={}", leases.display()));
    dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Removes what runs that died left behind.
fn clean_up() {
    for line in must(Command::new("ip").args(["netns", "list"])).lines() {
        let Some(namespace) = line.split_whitespace().next() else { continue };
        let pid = namespace.strip_prefix("minst").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _gone = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

fn ip(arguments: &str) {
    must(Command::new("ip").args(arguments.split_whitespace()));
}

/// Runs a command to its end; panics with what it said.
pub(crate) fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
