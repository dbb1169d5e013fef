use super::*;
use alloc::{string::String, vec::Vec};
use proptest::prelude::*;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x11]);

fn discover() -> Packet {
    let mut packet = Packet::new(Op::Request, 0xdead_beef, MAC);
    packet
        .options
        .set_message(MessageType::Discover)
        .set(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016")
        .set(code::ARCHITECTURE, &[0, 7])
        .set(code::NETWORK_INTERFACE, &[1, 3, 16])
        .set(code::MACHINE_ID, &[0; 17]);
    packet
}

/// `discover()` with these bytes in place of its options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = discover().encode();
    bytes.truncate(HEADER + 4);
    bytes.extend_from_slice(options);
    bytes
}

fn with_byte(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = discover().encode();
    bytes[at] = byte;
    bytes
}

#[test]
fn a_packet_has_at_least_300_bytes_and_an_end() {
    let bytes = Packet::new(Op::Reply, 1, MAC).encode();
    assert_eq!((bytes.len(), bytes[240]), (300, code::END));
}

#[test]
fn what_is_no_packet_is_refused_by_name() {
    use Malformed::*;
    let overrun = |code, claims, left| Overrun { code, claims, left };
    let cases: &[(&str, Vec<u8>, Malformed)] = &[
        ("nothing", Vec::new(), Short { have: 0 }),
        ("one byte", [1].into(), Short { have: 1 }),
        ("header only", discover().encode()[..236].into(), Short { have: 236 }),
        ("half a magic", discover().encode()[..239].into(), Short { have: 239 }),
        ("no magic", with_byte(236, 0), Magic),
        ("operation 0", with_byte(0, 0), Op(0)),
        ("operation 3", with_byte(0, 3), Op(3)),
        ("hlen 0", with_byte(2, 0), Hardware { htype: 1, hlen: 0 }),
        ("hlen 255", with_byte(2, 255), Hardware { htype: 1, hlen: 255 }),
        ("hlen 16", with_byte(2, 16), Hardware { htype: 1, hlen: 16 }),
        ("htype 0", with_byte(1, 0), Hardware { htype: 0, hlen: 6 }),
        ("infiniband", with_byte(1, 32), Hardware { htype: 32, hlen: 6 }),
        ("a number without length", with_options(&[53]), overrun(53, 1, 0)),
        ("overrun of a short option", with_options(&[53, 1]), overrun(53, 1, 0)),
        ("overrun by one", with_options(&[60, 3, b'P', b'X']), overrun(60, 3, 2)),
        ("overrun by 255", with_options(&[61, 255, 1]), overrun(61, 255, 1)),
        ("overload 0", with_options(&[52, 1, 0, 255]), Overload(0)),
        ("overload 4", with_options(&[52, 1, 4, 255]), Overload(4)),
        ("overload of two bytes", with_options(&[52, 2, 1, 1, 255]), Overload(1)),
        ("overload without a byte", with_options(&[52, 0, 255]), Overload(0)),
        (
            "overloaded file of garbage",
            {
                let mut bytes = with_options(&[52, 1, 1, 255]);
                bytes[108..236].fill(200);
                bytes
            },
            overrun(200, 200, 126),
        ),
    ];
    for (name, bytes, why) in cases {
        assert_eq!(Packet::decode(bytes).as_ref(), Err(why), "{name}");
    }
}

#[test]
fn what_is_odd_but_readable_is_read() {
    let read = |options: &[u8]| Packet::decode(&with_options(options)).unwrap().options;
    // No end mark, as some ROMs send it.
    assert_eq!(read(&[53, 1, 1]).message(), Some(MessageType::Discover));
    assert_eq!(read(&[]).message(), None);
    assert_eq!(read(&[0, 0, 0, 53, 1, 3]).message(), Some(MessageType::Request));
    // Behind the end mark is nothing.
    assert_eq!(read(&[255, 53, 1, 1]).message(), None);
    assert_eq!(read(&[53, 1, 99, 255]).message(), None);
    assert_eq!(read(&[53, 0, 255]).message(), None);
    assert_eq!(read(&[53, 2, 1, 1, 255]).message(), None);
    assert!(read(&[93, 0, 255]).architectures().is_empty());
    assert!(read(&[93, 1, 7, 255]).architectures().is_empty());
    assert!(read(&[93, 3, 0, 7, 0, 255]).architectures().is_empty());
    assert_eq!(read(&[93, 4, 0, 7, 0, 9, 255]).architectures(), [7, 9]);
    assert_eq!(read(&[12, 2, 0xff, 0xfe, 255]).text(code::HOST_NAME), None);
    assert_eq!(read(&[12, 3, b'a', 10, b'b', 255]).text(code::HOST_NAME), None);
    assert_eq!(read(&[12, 3, b'a', b'b', 0, 255]).text(code::HOST_NAME), Some("ab"));
    assert_eq!(read(&[54, 3, 1, 2, 3, 255]).address(code::SERVER_ID), None);
    assert!(read(&[6, 5, 1, 2, 3, 4, 5, 255]).addresses(code::DNS).is_empty());
    let mut giant = Vec::from([61, 255]);
    giant.extend_from_slice(&[7; 255]);
    assert_eq!(read(&giant).bytes(code::CLIENT_ID).map(<[u8]>::len), Some(255));
}

#[test]
fn options_that_come_twice_are_joined() {
    let packet = Packet::decode(&with_options(&[43, 2, 1, 2, 12, 1, b'a', 43, 1, 3, 255])).unwrap();
    assert_eq!(packet.options.bytes(code::VENDOR), Some(&[1, 2, 3][..]));
}

#[test]
fn overloaded_fields_hold_options_and_no_names() {
    let mut bytes = with_options(&[53, 1, 5, 52, 1, 3, 255]);
    bytes[108..112].copy_from_slice(&[67, 1, b'x', 255]);
    // An overload inside an overload must not loop.
    bytes[44..50].copy_from_slice(&[52, 1, 3, 66, 1, b'y']);
    let packet = Packet::decode(&bytes).unwrap();
    assert_eq!(packet.options.text(code::BOOT_FILE), Some("x"));
    assert_eq!(packet.options.text(code::TFTP_SERVER), Some("y"));
    assert_eq!((packet.file.as_bytes(), packet.sname.as_bytes()), (&b""[..], &b""[..]));
    assert_eq!(packet.options.bytes(code::OVERLOAD), None);
}

#[test]
fn a_field_leaves_room_for_its_nul() {
    assert!(Field::<FILE>::new(&[b'a'; 127]).is_some());
    assert!(Field::<FILE>::new(&[b'a'; 128]).is_none());
    assert!(Field::<FILE>::new(b"a\0b").is_none());
}

#[test]
fn a_jumbo_packet_is_read() {
    let mut options = Vec::new();
    while options.len() < 8700 {
        options.extend_from_slice(&[224, 100]);
        options.extend_from_slice(&[1; 100]);
    }
    let packet = Packet::decode(&with_options(&options)).unwrap();
    assert_eq!(packet.options.bytes(224).map(<[u8]>::len), Some(8600));
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let header = (any::<bool>(), any::<u8>(), any::<u32>(), any::<u16>(), any::<bool>(), any::<[u8; 6]>());
    let addresses = any::<[[u8; 4]; 4]>();
    let names = ("[^\\x00]{0,15}", "[^\\x00]{0,31}");
    let options = prop::collection::vec((1..255u8, prop::collection::vec(any::<u8>(), 0..600)), 0..12);
    (header, addresses, names, options).prop_map(|(header, addresses, names, options)| {
        let (request, hops, xid, secs, broadcast, mac) = header;
        let op = if request { Op::Request } else { Op::Reply };
        let mut packet = Packet::new(op, xid, Mac(mac));
        (packet.hops, packet.secs, packet.broadcast) = (hops, secs, broadcast);
        let [ciaddr, yiaddr, siaddr, giaddr] = addresses.map(Ipv4Addr::from);
        (packet.ciaddr, packet.yiaddr, packet.siaddr, packet.giaddr) = (ciaddr, yiaddr, siaddr, giaddr);
        let (sname, file): (String, String) = names;
        packet.sname = Field::new(sname.as_bytes()).unwrap_or_default();
        packet.file = Field::new(file.as_bytes()).unwrap_or_default();
        for (code, value) in options.into_iter().filter(|(code, _)| *code != code::OVERLOAD) {
            packet.options.set(code, &value);
        }
        packet
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(packet in any_packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = Packet::decode(&bytes);
    }

    #[test]
    fn no_change_to_a_packet_makes_it_panic(
        packet in any_packet(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = packet.encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(length.index(bytes.len() + 1));
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }
}
