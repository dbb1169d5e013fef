use super::*;
use crate::boot::table::Declared;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const X64: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x11]);
const ARM64: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x21]);
const KEEPER: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x22]);
const QUIRKY: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x31]);
const INSTALLED: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x12]);
const STRANGER: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x99]);

fn table() -> BootTable {
    let ours = |image: Option<&str>| System::Muster { image: image.map(|name| BootFile::new(name).unwrap()) };
    let machine = |node: &str, system, path| Declared { node: node.parse().unwrap(), system, path };
    BootTable {
        machines: [
            (X64, machine("mini-pc-1", ours(None), Path::Binl)),
            (ARM64, machine("dgx-spark-1", ours(None), Path::Binl)),
            (KEEPER, machine("dgx-spark-2", System::Keep, Path::Binl)),
            (QUIRKY, machine("rtx-host", ours(None), Path::Bypass)),
            (INSTALLED, machine("mini-pc-2", ours(Some("boot-old.efi")), Path::Binl)),
        ]
        .into(),
        images: [
            (Arch::X86_64, BootFile::new("boot-x86_64.efi").unwrap()),
            (Arch::Aarch64, BootFile::new("boot-aarch64.efi").unwrap()),
        ]
        .into(),
        discover: false,
    }
}

fn ask(mac: Mac, message: MessageType, class: &[u8], arch: u8) -> Packet {
    let mut packet = Packet::new(Op::Request, 0xfeed, mac);
    packet.broadcast = true;
    packet
        .options
        .set_message(message)
        .set(code::VENDOR_CLASS, class)
        .set(code::ARCHITECTURE, &[0, arch])
        .set(code::MACHINE_ID, &[7; 17]);
    packet
}

fn discover(mac: Mac, arch: u8) -> Packet {
    ask(mac, MessageType::Discover, b"PXEClient:Arch:00007:UNDI:003016", arch)
}

fn request4011(mac: Mac, arch: u8) -> Packet {
    let mut packet = ask(mac, MessageType::Request, b"PXEClient:Arch:00007:UNDI:003016", arch);
    packet.ciaddr = Ipv4Addr::new(10, 77, 0, 111);
    packet
}

fn replied(packet: &Packet, port: Port) -> Reply {
    match answer(packet, port, &table(), SERVER) {
        Verdict::Reply(reply) => reply,
        Verdict::Ignore(why) => panic!("ignored: {why}"),
    }
}

fn ignored(packet: &Packet, port: Port) -> Why {
    match answer(packet, port, &table(), SERVER) {
        Verdict::Reply(reply) => panic!("answered: {reply:?}"),
        Verdict::Ignore(why) => why,
    }
}

#[test]
fn a_discover_is_offered_its_file_without_option_43() {
    for (mac, arch, file) in
        [(X64, 7, "boot-x86_64.efi"), (X64, 9, "boot-x86_64.efi"), (ARM64, 11, "boot-aarch64.efi")]
    {
        let Reply { packet, to, .. } = replied(&discover(mac, arch), Port::Dhcp);
        assert_eq!(to, To::Everybody);
        assert_eq!((packet.op, packet.xid, packet.mac), (Op::Reply, 0xfeed, mac));
        assert_eq!(packet.options.message(), Some(MessageType::Offer));
        // A proxy gives no address; with one EDK2 would take us for the address server.
        assert!(packet.yiaddr.is_unspecified() && packet.ciaddr.is_unspecified());
        assert_eq!(packet.options.bytes(code::VENDOR), None);
        assert_eq!(packet.options.bytes(code::VENDOR_CLASS), Some(&b"PXEClient"[..]));
        assert_eq!(packet.options.text(code::BOOT_FILE), Some(file));
        assert_eq!(packet.file.as_bytes(), file.as_bytes());
        assert_eq!(packet.options.text(code::TFTP_SERVER), Some("10.77.0.1"));
        assert_eq!((packet.siaddr, packet.options.address(code::SERVER_ID)), (SERVER, Some(SERVER)));
        assert_eq!(packet.options.bytes(code::MACHINE_ID), Some(&[7; 17][..]));
        assert!(packet.broadcast);
    }
}

#[test]
fn a_request_on_4011_is_acknowledged_to_its_sender() {
    let Reply { packet, to, .. } = replied(&request4011(ARM64, 11), Port::Boot);
    assert_eq!(to, To::Sender);
    assert_eq!(packet.options.message(), Some(MessageType::Ack));
    assert_eq!(packet.options.text(code::BOOT_FILE), Some("boot-aarch64.efi"));
    assert_eq!(packet.ciaddr, Ipv4Addr::new(10, 77, 0, 111));
    assert_eq!(packet.options.bytes(code::VENDOR), None);
}

#[test]
fn a_request_on_4011_without_an_address_is_answered_to_everybody() {
    let mut packet = request4011(X64, 7);
    packet.ciaddr = Ipv4Addr::UNSPECIFIED;
    assert_eq!(replied(&packet, Port::Boot).to, To::Everybody);
}

#[test]
fn the_quirk_leads_past_4011() {
    let offer = replied(&discover(QUIRKY, 7), Port::Dhcp).packet;
    assert_eq!(offer.options.bytes(code::VENDOR), Some(&[6, 1, 8, 255][..]));
    assert_eq!(offer.options.text(code::BOOT_FILE), Some("boot-x86_64.efi"));
}

#[test]
fn http_boot_is_offered_a_url_and_its_own_class() {
    let packet = ask(X64, MessageType::Discover, b"HTTPClient:Arch:00016:UNDI:003000", 16);
    let offer = replied(&packet, Port::Dhcp).packet;
    assert_eq!(offer.options.text(code::BOOT_FILE), Some("http://10.77.0.1/boot/boot-x86_64.efi"));
    assert_eq!(offer.options.bytes(code::VENDOR_CLASS), Some(&b"HTTPClient"[..]));
    let packet = ask(QUIRKY, MessageType::Discover, b"HTTPClient:Arch:00019:UNDI:003000", 19);
    let offer = replied(&packet, Port::Dhcp).packet;
    assert_eq!(offer.options.text(code::BOOT_FILE), Some("http://10.77.0.1/boot/boot-aarch64.efi"));
    assert_eq!(offer.options.bytes(code::VENDOR), None, "the PXE quirk is not for HTTP");
}

#[test]
fn an_installed_machine_gets_the_image_of_its_marker() {
    assert_eq!(replied(&discover(INSTALLED, 7), Port::Dhcp).file.as_str(), "boot-old.efi");
}

#[test]
fn a_rom_without_a_guid_still_boots() {
    let mut packet = discover(X64, 7);
    packet.options.take(code::MACHINE_ID);
    assert_eq!(replied(&packet, Port::Dhcp).packet.options.bytes(code::MACHINE_ID), None);
    packet.options.set(code::MACHINE_ID, &[9; 600]);
    let offer = replied(&packet, Port::Dhcp).packet;
    assert_eq!(offer.options.bytes(code::MACHINE_ID), None, "a giant one is not echoed");
}

#[test]
fn everybody_else_gets_silence_with_a_reason() {
    let change = |change: fn(&mut Packet)| {
        let mut packet = discover(X64, 7);
        change(&mut packet);
        packet
    };
    let relay = Ipv4Addr::new(192, 0, 2, 1);
    let cases: Vec<(&str, Packet, Why)> = vec![
        ("a server's packet", change(|p| p.op = Op::Reply), Why::NotRequest),
        ("a laptop", change(|p| drop(p.options.take(code::VENDOR_CLASS))), Why::NotNetbooting),
        (
            "dhclient with a class",
            change(|p| {
                p.options.set(code::VENDOR_CLASS, b"dhcpcd-9.4");
            }),
            Why::NotNetbooting,
        ),
        (
            "a look-alike",
            change(|p| {
                p.options.set(code::VENDOR_CLASS, b"PXEClientX");
            }),
            Why::NotNetbooting,
        ),
        (
            "no architecture",
            change(|p| {
                p.options.take(code::ARCHITECTURE);
                p.options.set(code::VENDOR_CLASS, b"PXEClient");
            }),
            Why::NotNetbooting,
        ),
        ("a group address", change(|p| p.mac.0[0] |= 1), Why::BadMac(Mac([0x53, 0x54, 0, 0, 0, 0x11]))),
        ("no address", change(|p| p.mac = Mac([0; 6])), Why::BadMac(Mac([0; 6]))),
        ("everybody's address", change(|p| p.mac = Mac([255; 6])), Why::BadMac(Mac([255; 6]))),
        ("a relay", change(|p| p.giaddr = Ipv4Addr::new(192, 0, 2, 1)), Why::Relayed(relay)),
        ("BOOTP", change(|p| drop(p.options.take(code::MESSAGE_TYPE))), Why::NoMessage),
        (
            "a lease request",
            ask(X64, MessageType::Request, b"PXEClient", 7),
            Why::NotOurs(MessageType::Request),
        ),
        ("a release", ask(X64, MessageType::Release, b"PXEClient", 7), Why::NotOurs(MessageType::Release)),
        (
            "an offer as request",
            ask(X64, MessageType::Offer, b"PXEClient", 7),
            Why::NotOurs(MessageType::Offer),
        ),
        ("a BIOS", discover(X64, 0), Why::NoUefi),
        ("IA32 UEFI", discover(X64, 6), Why::Architecture(6)),
        ("arm32 UEFI", discover(X64, 10), Why::Architecture(10)),
        ("a stranger", discover(STRANGER, 7), Why::Undeclared),
        ("a machine that keeps its system", discover(KEEPER, 11), Why::Keeps),
    ];
    for (name, packet, why) in &cases {
        assert_eq!(ignored(packet, Port::Dhcp), *why, "{name}");
    }
    assert_eq!(ignored(&discover(X64, 7), Port::Boot), Why::NotOurs(MessageType::Discover));
    assert_eq!(ignored(&request4011(KEEPER, 11), Port::Boot), Why::Keeps);
    assert_eq!(ignored(&request4011(STRANGER, 7), Port::Boot), Why::Undeclared);
    let http = ask(X64, MessageType::Request, b"HTTPClient", 16);
    assert_eq!(ignored(&http, Port::Boot), Why::NotOurs(MessageType::Request));
    let mut other = request4011(X64, 7);
    other.options.set_address(code::SERVER_ID, Ipv4Addr::new(10, 77, 0, 2));
    assert_eq!(ignored(&other, Port::Boot), Why::OtherServer(Ipv4Addr::new(10, 77, 0, 2)));
}

#[test]
fn without_an_image_nothing_is_offered() {
    let table = BootTable { images: Default::default(), ..table() };
    let verdict = answer(&discover(X64, 7), Port::Dhcp, &table, SERVER);
    assert_eq!(verdict, Verdict::Ignore(Why::NoImage(Arch::X86_64)));
}

#[test]
fn discovery_answers_strangers_and_still_not_those_who_keep_their_system() {
    let table = BootTable { discover: true, ..table() };
    let asked = |mac, arch| answer(&discover(mac, arch), Port::Dhcp, &table, SERVER);
    assert!(matches!(asked(STRANGER, 7), Verdict::Reply(_)));
    assert_eq!(asked(KEEPER, 11), Verdict::Ignore(Why::Keeps));
}

#[test]
fn the_timeline_hears_of_netbooting_clients_only() {
    let heard = |packet: &Packet, port| told(packet, port, &answer(packet, port, &table(), SERVER));
    let firmware = Firmware { way: Way::Pxe, arch: FirmwareArch::Uefi(Arch::X86_64) };
    assert_eq!(
        heard(&discover(X64, 7), Port::Dhcp),
        [What::DhcpDiscover { firmware }, What::DhcpOffer { file: "boot-x86_64.efi".into() }]
    );
    assert_eq!(
        heard(&discover(STRANGER, 7), Port::Dhcp),
        [What::DhcpDiscover { firmware }, What::Ignored { why: Why::Undeclared }]
    );
    assert_eq!(
        heard(&request4011(X64, 7), Port::Boot),
        [
            What::Request4011 { ciaddr: Ipv4Addr::new(10, 77, 0, 111) },
            What::Ack4011 { file: "boot-x86_64.efi".into() }
        ]
    );
    let mut lease = ask(X64, MessageType::Request, b"PXEClient", 7);
    lease.options.set_address(code::SERVER_ID, Ipv4Addr::new(10, 77, 0, 2));
    assert_eq!(heard(&lease, Port::Dhcp), [What::DhcpRequest { server: Some(Ipv4Addr::new(10, 77, 0, 2)) }]);
    let mut laptop = discover(X64, 7);
    laptop.options.take(code::VENDOR_CLASS);
    assert_eq!(heard(&laptop, Port::Dhcp), []);
}

proptest! {
    /// Whatever the bytes: an answer goes to a declared machine that netboots, gives no address, is not longer than
    /// its question by more than the names we add, and can be read back.
    #[test]
    fn an_answer_is_always_in_order(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        mac in prop::sample::select(vec![X64, ARM64, KEEPER, QUIRKY, STRANGER]),
        arch in 0..20u8,
        on4011 in any::<bool>(),
    ) {
        let (packet, port) =
            if on4011 { (request4011(mac, arch), Port::Boot) } else { (discover(mac, arch), Port::Dhcp) };
        let mut bytes = packet.encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(packet) = Packet::decode(&bytes) else { return Ok(()) };
        if let Verdict::Reply(reply) = answer(&packet, port, &table(), SERVER) {
            prop_assert!(recognise(&packet.options).is_some());
            prop_assert!([X64, ARM64, QUIRKY, INSTALLED].contains(&packet.mac));
            prop_assert!(reply.packet.yiaddr.is_unspecified());
            let sent = reply.packet.encode();
            prop_assert!(sent.len() <= 548, "{} bytes", sent.len());
            prop_assert_eq!(Packet::decode(&sent), Ok(reply.packet));
        }
    }
}
