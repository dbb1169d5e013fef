//! The DHCP client, netlink and beacons on a real wire: a veth pair in a namespace of its own, with dnsmasq at its
//! other end. Needs root, `unshare`, `ip` and `dnsmasq`; says so and passes where one is missing.

#![allow(clippy::unwrap_used, reason = "a test stops where its setup fails")]

use muster_agent::net::dhcp::{self, Event};
use muster_agent::net::find::Beacons;
use muster_agent::net::link::Links;
use muster_protocol::beacon::{Beacon, Call, PORT};
use muster_protocol::ids::{Cidr, ClusterId, InstanceId, Mac};
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::{Delegation, OnlineKey, Signed, Trust};
use muster_protocol::wire;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

const INSIDE: &str = "MUSTER_TEST_NAMESPACE";
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the named test again in an empty network namespace; true in the run that is inside one.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let has = |tool: &str| {
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if std::fs::metadata("/proc/self").unwrap().uid() != 0
        || !["unshare", "ip", "dnsmasq"].into_iter().all(has)
    {
        eprintln!("not run: needs root, unshare, ip and dnsmasq");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the run inside the namespace failed");
    false
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

fn wire_up() {
    ip("link set lo up");
    ip("link add name port0 address 02:00:00:00:00:0a type veth peer name far0");
    ip("address add 10.77.0.1/24 dev far0");
    ip("link set far0 up");
    ip("link set port0 up");
}

/// Its leases are in a folder of its own.
struct Dnsmasq {
    child: Child,
    _folder: TempDir,
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn dnsmasq() -> Dnsmasq {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new("dnsmasq")
        .args([
            "--no-daemon",
            "--port=0",
            "--conf-file=/dev/null",
            "--interface=far0",
            "--bind-interfaces",
            "--no-ping",
        ])
        .args([
            "--dhcp-authoritative",
            "--dhcp-range=10.77.0.100,10.77.0.110,255.255.255.0,2h",
            "--user=root",
        ])
        .args(["--dhcp-option=option:router,10.77.0.1", "--dhcp-option=option:dns-server,10.77.0.1"])
        .args(["--dhcp-option=121,0.0.0.0/0,10.77.0.66"])
        .arg(format!("--dhcp-leasefile={}", folder.path().join("leases").display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Dnsmasq { child, _folder: folder }
}

fn addresses() -> String {
    String::from_utf8(
        Command::new("ip").args(["-4", "-o", "address", "show", "dev", "port0"]).output().unwrap().stdout,
    )
    .unwrap()
}

fn routes() -> String {
    String::from_utf8(Command::new("ip").args(["-4", "route"]).output().unwrap().stdout).unwrap()
}

fn in_tokio(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn a_lease_from_dnsmasq_becomes_address_and_route() {
    if !inside("a_lease_from_dnsmasq_becomes_address_and_route") {
        return;
    }
    wire_up();
    let _server = dnsmasq();
    in_tokio(async {
        let interface = nix::net::if_::if_nametoindex("port0").unwrap();
        let (tell, mut heard) = mpsc::channel(4);
        let client = tokio::spawn(dhcp::run(interface, Mac([2, 0, 0, 0, 0, 0x0a]), 7, tell));
        let (_, event) = timeout(LIMIT, heard.recv()).await.expect("no lease in time").unwrap();
        let Event::Bound(lease) = event else { panic!("{event:?}") };
        assert!(lease.address >= Ipv4Addr::new(10, 77, 0, 100) && lease.prefix == 24, "{lease:?}");

        let links = Links::open().unwrap();
        let cidr = Cidr { address: lease.address, prefix: lease.prefix };
        ip("address add 192.168.9.9/24 dev port0");
        // Twice: a renewed lease is configured again.
        for _ in 0..2 {
            links.configure(interface, cidr, lease.routers.first().copied(), 1024).await.unwrap();
        }
        assert!(
            addresses().contains(&cidr.to_string()) && !addresses().contains("192.168.9.9"),
            "{}",
            addresses()
        );
        assert!(routes().contains("default via 10.77.0.1 dev port0"), "{}", routes());
        links.clear(interface, None).await.unwrap();
        assert_eq!(addresses(), "");
        client.abort();
    });
}

#[test]
fn a_beacon_is_heard_before_there_is_an_address() {
    if !inside("a_beacon_is_heard_before_there_is_an_address") {
        return;
    }
    wire_up();
    let cluster = ClusterId([9; 16]);
    let (root, online) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let trust = Trust { cluster, cluster_name: "test".into(), root: root.public().verify, build_epoch: 0 };
    let delegation =
        Signed::by_key(cluster, &root, &Delegation { number: 1, online: online.public().verify });
    let key = OnlineKey { secret: online, delegation, number: 1 };
    let beacon = Beacon { instance: InstanceId([3; 8]), sequence: 1, api_port: PORT, http_port: 80 };
    let call = wire::encode(&Call::Beacon(Signed::by_online(cluster, &key, &beacon)));
    in_tokio(async {
        let beacons = Beacons::listen(Ipv4Addr::UNSPECIFIED).unwrap();
        let voice = UdpSocket::bind("10.77.0.1:0").unwrap();
        voice.set_broadcast(true).unwrap();
        // Noise first: it must not end the listening.
        voice.send_to(b"noise", ("255.255.255.255", PORT)).unwrap();
        voice.send_to(&call, ("255.255.255.255", PORT)).unwrap();
        let found = timeout(LIMIT, beacons.next(&trust, 0)).await.expect("no beacon in time").unwrap();
        assert_eq!(found.api.to_string(), "10.77.0.1:7480");
    });
}
