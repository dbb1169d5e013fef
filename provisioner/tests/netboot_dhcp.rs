//! ProxyDHCP on a LAN with another DHCP server: who is answered, and that nobody else hears a word.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

#[path = "support/pxe.rs"]
mod pxe;
mod support;

use muster::boot::{
    answer::Why,
    event::What,
    firmware::{Firmware, FirmwareArch, Way},
    published::Published,
    table::{BootFile, BootTable, Declared, Path, System},
};
use muster_protocol::{
    dhcp::{MessageType, Packet, code},
    ids::{Arch, Mac},
};
use pxe::Rom;
use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Duration,
};
use support::{Host, Lan, Running, able, kept};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn table(machines: &[(Mac, Path)]) -> BootTable {
    let declared = |(n, (mac, path)): (usize, &(Mac, Path))| {
        let node = format!("mini-pc-{n}").parse().unwrap();
        (*mac, Declared { node, system: System::Muster { image: None }, path: *path })
    };
    BootTable {
        machines: machines.iter().enumerate().map(declared).collect(),
        images: [
            (Arch::X86_64, BootFile::new("boot-x86_64.efi").unwrap()),
            (Arch::Aarch64, BootFile::new("boot-aarch64.efi").unwrap()),
        ]
        .into(),
        discover: false,
    }
}

/// The other DHCP server, with its leases in `folder`.
fn foreign(host: &Host, folder: &support::Folder) -> Running {
    let leases = format!("--dhcp-leasefile={}", folder.path("leases").display());
    let ready = host.start(
        "dnsmasq",
        &[
            "-k",
            "-p0",
            "--interface=eth0",
            "--bind-interfaces",
            "--dhcp-range=10.77.0.100,10.77.0.199,1h",
            "--dhcp-authoritative",
            "--no-ping",
            "--pid-file",
            &leases,
        ],
    );
    // It is there when it has taken port 67.
    let up = || support::must(host.command("ss").args(["-Hlun"])).contains(":67 ");
    for _ in 0..500 {
        if up() {
            return ready;
        }
        std::thread::yield_now();
    }
    panic!("dnsmasq does not listen");
}

#[test]
fn a_declared_machine_walks_from_its_broadcast_to_4011() {
    if !able(&["dnsmasq", "ss"]) {
        return;
    }
    let mut lan = Lan::new();
    let (ours, other) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.2/24")));
    let client = lan.host(Some("10.77.0.150/24"));
    let folder = support::Folder::new();
    let _other = foreign(&other, &folder);
    let mut servers = ours.serve(table(&[(client.mac, Path::Binl)]), &Published::default());

    let rom = Rom::edk2(client.mac);
    let offer = pxe::offer(&client, &rom.packet(MessageType::Discover), SERVER).expect("an offer");
    assert_eq!(offer.options.message(), Some(MessageType::Offer));
    assert_eq!((offer.yiaddr, offer.options.bytes(code::VENDOR)), (Ipv4Addr::UNSPECIFIED, None));
    servers.wait_for(|event| {
        let firmware = Firmware { way: Way::Pxe, arch: FirmwareArch::Uefi(Arch::X86_64) };
        event.mac == Some(client.mac) && event.what == What::DhcpDiscover { firmware }
    });

    let mut request = rom.packet(MessageType::Request);
    request.ciaddr = Ipv4Addr::new(10, 77, 0, 150);
    // EDK2 asks from 4011, other ROMs from 68.
    for port in [4011, 68] {
        let ack = pxe::ask_4011(&client, &request, offer.options.address(code::SERVER_ID).unwrap(), port)
            .expect("an acknowledgement");
        assert_eq!(ack.options.message(), Some(MessageType::Ack));
        assert_eq!(ack.options.text(code::BOOT_FILE), Some("boot-x86_64.efi"));
    }
    servers.wait_for(|event| event.what == What::Request4011 { ciaddr: request.ciaddr });
    servers.wait_for(|event| event.what == What::Ack4011 { file: "boot-x86_64.efi".into() });

    // A ROM without an address asks everybody, and is answered so.
    let mut homeless = rom.packet(MessageType::Request);
    homeless.options.set_address(code::SERVER_ID, SERVER);
    let bytes = homeless.encode();
    let replies = client
        .run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:68").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket.send_to(&bytes, (SERVER, 4011)).unwrap();
            let mut buffer = [0; 1000];
            socket.recv(&mut buffer).is_ok()
        })
        .join()
        .unwrap();
    assert!(replies);
}

#[test]
fn bad_packets_do_not_end_it() {
    if !able(&[]) {
        return;
    }
    let mut lan = Lan::new();
    let (ours, client) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.150/24")));
    let _servers = ours.serve(table(&[(client.mac, Path::Bypass)]), &Published::default());
    let rom = Rom::edk2(client.mac);
    let discover = rom.packet(MessageType::Discover);
    let before = pxe::offer(&client, &discover, SERVER).expect("an offer");
    assert_eq!(before.options.bytes(code::VENDOR), Some(&[6, 1, 8, 255][..]));

    // 10,000 mutants (fixed seed), some of them longer than a packet can be on this link.
    let luck = support::noise(10_000 * 16);
    let mutants = luck.chunks(16).map(|luck| {
        let mut bytes = discover.encode();
        for change in luck[..12].chunks(3) {
            let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
            bytes[at] = change[2];
        }
        match luck[12] {
            0..64 => bytes.truncate(usize::from(luck[13]) * 2),
            64..72 => bytes.resize(1400 + usize::from(luck[13]) * 32, luck[14]),
            _ => {}
        }
        bytes
    });
    let replies = pxe::broadcast(&client, mutants.collect(), Duration::from_millis(500));
    for (_, reply) in &replies {
        assert_eq!((reply.mac, reply.yiaddr), (client.mac, Ipv4Addr::UNSPECIFIED));
    }
    assert_eq!(pxe::offer(&client, &discover, SERVER), Some(before), "the same answer as before");
}

#[test]
fn nobody_else_hears_a_word_for_thirty_seconds() {
    if !able(&["dnsmasq", "ss", "dhclient", "udhcpc", "tcpdump", "timeout"]) {
        return;
    }
    let mut lan = Lan::new();
    let (ours, other) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.2/24")));
    let (laptop, gadget) = (lan.host(None), lan.host(None));
    let (stranger, keeper, declared) = (lan.host(None), lan.host(None), lan.host(None));
    let folder = support::Folder::new();
    let _other = foreign(&other, &folder);
    let mut table = table(&[(declared.mac, Path::Binl), (laptop.mac, Path::Binl), (keeper.mac, Path::Binl)]);
    // Declared machines whose running system asks for its lease are not netbooting either.
    table.machines.get_mut(&keeper.mac).unwrap().system = System::Keep;
    let mut servers = ours.serve(table, &Published::default());

    let capture = kept("silence.pcap");
    let mut tcpdump = lan.command("timeout");
    let mut tcpdump = tcpdump
        .args(["30", "tcpdump", "-i", "br0", "-U", "-n", "-w"])
        .arg(&capture)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(tcpdump.stderr.as_mut().unwrap()), &mut ready)
        .unwrap();
    assert!(ready.contains("listening"), "{ready}");

    let lease = folder.path("dhclient.lease");
    let pid = folder.path("dhclient.pid");
    let (lease, pid) = (lease.display().to_string(), pid.display().to_string());
    let _laptop = laptop.start("dhclient", &["-d", "-sf", "/bin/true", "-lf", &lease, "-pf", &pid, "eth0"]);
    let _gadget = gadget.start("udhcpc", &["-f", "-i", "eth0", "-s", "/bin/true"]);
    let class = ["-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"];
    let _stranger =
        stranger.start("udhcpc", &[&["-f", "-i", "eth0", "-s", "/bin/true"][..], &class].concat());
    let _keeper = keeper.start("udhcpc", &[&["-f", "-i", "eth0", "-s", "/bin/true"][..], &class].concat());
    servers.wait_for(|event| {
        event.mac == Some(stranger.mac) && event.what == What::Ignored { why: Why::Undeclared }
    });
    servers
        .wait_for(|event| event.mac == Some(keeper.mac) && event.what == What::Ignored { why: Why::Keeps });
    assert!(tcpdump.wait().is_ok());

    let read = |filter: &str| {
        let mut tcpdump = Command::new("tcpdump");
        support::must(tcpdump.args(["-n", "-e", "-r"]).arg(&capture).arg(filter))
    };
    assert_eq!(read(&format!("udp and ether src {}", ours.mac)), "", "silence; see {}", capture.display());
    let heard = read("udp dst port 67");
    for host in [&laptop, &gadget, &stranger, &keeper] {
        assert!(heard.contains(&host.mac.to_string()), "{} asked", host.mac);
    }
    let leases = std::fs::read_to_string(folder.path("leases")).unwrap();
    for host in [&laptop, &gadget, &stranger] {
        assert!(
            leases.contains(&host.mac.to_string()),
            "{} has a lease from the other server: {leases}",
            host.mac
        );
    }
    // The server was awake all the while.
    assert!(pxe::offer(&declared, &Rom::edk2(declared.mac).packet(MessageType::Discover), SERVER).is_some());
}

#[test]
fn sockets_follow_an_interface_that_comes_back() {
    if !able(&[]) {
        return;
    }
    let mut lan = Lan::new();
    let (ours, client) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.150/24")));
    let _servers = ours.serve(table(&[(client.mac, Path::Binl)]), &Published::default());
    let discover: Packet = Rom::edk2(client.mac).packet(MessageType::Discover);
    assert!(pxe::offer(&client, &discover, SERVER).is_some());
    lan.replug(&ours, "10.77.0.1/24");
    let back = (0..5).any(|_| pxe::offer(&client, &discover, SERVER).is_some());
    assert!(back, "answers again within 15 s");
}
