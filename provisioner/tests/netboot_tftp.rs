//! TFTP against clients of others and of our own, on good networks and bad ones.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod support;
#[path = "support/tftp.rs"]
mod tftp;

use muster::boot::{event::What, published::Published, table::BootTable};
use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use support::{Folder, Host, Lan, Servers, able, must};
use tftp::{Client, Said, ack, read_request};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Declared in the order in which it must be dropped: servers before their namespaces.
struct Room {
    servers: Servers,
    published: Published,
    folder: Folder,
    ours: Host,
    client: Host,
    lan: Lan,
}

fn room() -> Room {
    let mut lan = Lan::new();
    let (ours, client) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.50/24")));
    let (published, folder) = (Published::default(), Folder::new());
    let servers = ours.serve(BootTable::default(), &published);
    Room { servers, published, folder, ours, client, lan }
}

/// A way to fetch `name` into a file with somebody else's client.
type Fetch = fn(&Host, &str, &PathBuf) -> Command;

fn hpa(host: &Host, name: &str, to: &PathBuf) -> Command {
    let mut command = host.command("tftp");
    command.args(["-m", "binary", "10.77.0.1", "-c", "get", name]).arg(to);
    command
}

fn atftp(host: &Host, name: &str, to: &PathBuf) -> Command {
    let mut command = host.command("atftp");
    command.args(["-g", "-r", name, "-l"]).arg(to).args(["--option", "blksize 512", "10.77.0.1"]);
    command
}

fn atftp_windows(host: &Host, name: &str, to: &PathBuf) -> Command {
    let mut command = host.command("atftp");
    command.args(["-g", "-r", name, "-l"]).arg(to);
    command.args(["--option", "blksize 1468", "--option", "windowsize 16", "10.77.0.1"]);
    command
}

fn curl(host: &Host, name: &str, to: &PathBuf) -> Command {
    let mut command = host.command("curl");
    command
        .args(["-sS", "--fail", "--tftp-blksize", "512", "-o"])
        .arg(to)
        .arg(format!("tftp://10.77.0.1/{name}"));
    command
}

fn curl_plain(host: &Host, name: &str, to: &PathBuf) -> Command {
    let mut command = host.command("curl");
    command
        .args(["-sS", "--fail", "--tftp-no-options", "-o"])
        .arg(to)
        .arg(format!("tftp://10.77.0.1/{name}"));
    command
}

const CLIENTS: [(&str, Fetch); 5] = [
    ("tftp-hpa", hpa),
    ("atftp", atftp),
    ("atftp, window 16", atftp_windows),
    ("curl", curl),
    ("curl plain", curl_plain),
];

/// Fetches with one client, compares, gives the time.
fn fetch(room: &Room, name: &str, bytes: &[u8], client: (&str, Fetch)) -> Duration {
    let to = room.folder.path(&format!("got-{}", client.0.replace([' ', ','], "-")));
    let began = Instant::now();
    must(&mut client.1(&room.client, name, &to));
    let took = began.elapsed();
    // curl makes no file of no bytes.
    let got = std::fs::read(&to).unwrap_or_default();
    assert!(got == bytes, "{}: {} of {} bytes, or others", client.0, got.len(), bytes.len());
    let _ = std::fs::remove_file(&to);
    took
}

#[test]
fn files_of_every_odd_size_arrive_with_every_client() {
    if !able(&["tftp", "atftp", "curl"]) {
        return;
    }
    let mut room = room();
    for size in [0, 1, 511, 512, 513, 100_000] {
        let name = format!("size-{size}");
        let bytes = room.folder.publish(&room.published, &name, size);
        for client in CLIENTS {
            fetch(&room, &name, &bytes, client);
            room.servers.wait_for(
                |event| matches!(&event.what, What::TftpDone { name: done, bytes, .. } if *done == name && *bytes == size as u64),
            );
        }
    }
}

#[test]
fn forty_mebibytes_at_block_size_512_roll_over_and_arrive() {
    if !able(&["tftp", "atftp", "curl"]) {
        return;
    }
    let room = room();
    let bytes = room.folder.publish(&room.published, "big", 40 << 20);
    for client in [CLIENTS[0], CLIENTS[1], CLIENTS[3]] {
        let took = fetch(&room, "big", &bytes, client);
        println!("{}: 40 MiB at block size 512 in {took:.1?}", client.0);
    }
}

#[test]
fn a_megabyte_in_lockstep_takes_no_three_seconds() {
    if !able(&["tftp"]) {
        return;
    }
    // What shim does: 512 bytes, no options.
    let room = room();
    let bytes = room.folder.publish(&room.published, "shim", 1 << 20);
    let took = fetch(&room, "shim", &bytes, CLIENTS[0]);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn four_mebibytes_arrive_where_packets_are_lost_both_ways() {
    if !able(&["tftp", "curl"]) {
        return;
    }
    let room = room();
    let bytes = room.folder.publish(&room.published, "lossy", 4 << 20);
    for (percent, clients, windows) in
        [(5, &[CLIENTS[0], CLIENTS[3]][..], &["4", "16", "64"][..]), (20, &[CLIENTS[0]], &["16"])]
    {
        room.lan.lose(percent);
        for client in clients {
            let took = fetch(&room, "lossy", &bytes, *client);
            println!("{}: 4 MiB at {percent} % loss in {took:.1?}", client.0);
        }
        // Not atftp: when its acknowledgement of our options is lost, it takes their repetition for a fault.
        for window in windows {
            let began = Instant::now();
            let options = [("blksize", "1468"), ("windowsize", *window)];
            let got = room.client.run(move || Client::new(SERVER, 0).get("lossy", &options, |_, _| {}));
            assert!(got.join().unwrap() == bytes, "window {window}");
            println!("our client, window {window}: 4 MiB at {percent} % loss in {:.1?}", began.elapsed());
        }
    }
}

#[test]
fn fifty_clients_at_once_all_get_their_file() {
    if !able(&["tftp"]) {
        return;
    }
    let room = room();
    let bytes = room.folder.publish(&room.published, "fifty", 1 << 20);
    let running: Vec<_> = (0..50)
        .map(|n| {
            let to = room.folder.path(&format!("fifty-{n}"));
            (hpa(&room.client, "fifty", &to).spawn().unwrap(), to)
        })
        .collect();
    for (mut child, to) in running {
        assert!(child.wait().unwrap().success());
        assert!(std::fs::read(to).unwrap() == bytes);
    }
}

#[test]
fn edk2_asks_the_size_hangs_up_and_asks_again_from_the_same_port() {
    if !able(&[]) {
        return;
    }
    let mut room = room();
    let bytes = room.folder.publish(&room.published, "boot.efi", 1_000_000);
    let got = room.client.run(|| {
        let client = Client::new(SERVER, 1798);
        let options = [("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")];
        for _ in 0..20 {
            client.ask(&read_request(b"boot.efi", &options));
            let (said, from) = client.hear().expect("an option acknowledgement");
            let Said::Oack(granted) = said else { panic!("{said:?}") };
            assert_eq!(granted[0], ("tsize".to_string(), "1000000".to_string()));
            client.say(b"\0\x05\0\x08User aborted the transfer\0", from);
        }
        client.get("boot.efi", &options, |_, _| {})
    });
    assert!(got.join().unwrap() == bytes);
    room.servers.wait_for(|event| matches!(event.what, What::TftpDone { .. }));
    let told = room.servers.told();
    assert!(!told.iter().any(|what| matches!(what, What::TftpFailed { .. })), "{told:?}");
}

#[test]
fn blocks_fit_the_wire_whatever_is_asked() {
    if !able(&[]) {
        return;
    }
    let room = room();
    let bytes = room.folder.publish(&room.published, "matrix", 300_000);
    let mut cases = 0;
    for blksize in ["8", "512", "1024", "1428", "1468", "8192", "65464"] {
        for windowsize in [None, Some("1"), Some("4"), Some("16"), Some("64"), Some("65535")] {
            for tsize in [None, Some("0")] {
                for timeout in ["1", "255"] {
                    // 37,501 blocks in lockstep say nothing that 1,000 do not.
                    let size = if blksize == "8" { 8_000 } else { bytes.len() };
                    let expected = &bytes[..size];
                    if blksize == "8" {
                        room.folder.publish(&room.published, "matrix8", size);
                    }
                    let name = if blksize == "8" { "matrix8" } else { "matrix" };
                    let wanted: Vec<(&'static str, &'static str)> = [
                        Some(("blksize", blksize)),
                        windowsize.map(|value| ("windowsize", value)),
                        tsize.map(|value| ("tsize", value)),
                        Some(("timeout", timeout)),
                    ]
                    .into_iter()
                    .flatten()
                    .collect();
                    let got = room.client.run(move || Client::new(SERVER, 0).get(name, &wanted, |_, _| {}));
                    assert!(got.join().unwrap() == *expected, "{blksize} {windowsize:?} {tsize:?} {timeout}");
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 168);
    // A jumbo interface still sends no block a 1500-byte ROM could not take.
    must(room.ours.command("ip").args(["link", "set", "eth0", "mtu", "9000"]));
    let largest = room.client.run(|| {
        let client = Client::new(SERVER, 0);
        client.ask(&read_request(b"matrix", &[("blksize", "65464")]));
        client.hear().expect("an answer").0
    });
    assert_eq!(largest.join().unwrap(), Said::Oack(vec![("blksize".into(), "1468".into())]));
}

#[test]
fn a_stranger_is_told_off_and_the_transfer_goes_on() {
    if !able(&[]) {
        return;
    }
    let room = room();
    let bytes = room.folder.publish(&room.published, "tid", 1_500_000);
    let (got, told) = room
        .client
        .run(|| {
            let stranger = Client::new(SERVER, 0);
            let mut told = 0;
            let got = Client::new(SERVER, 0).get("tid", &[("blksize", "1468")], |_, server| {
                // An error of a stranger ends nothing and is not answered; an acknowledgement is, with error 5.
                stranger.say(b"\0\x05\0\0bye\0", server);
                stranger.say(&ack(1), server);
                let (said, from) = stranger.hear().expect("an answer to the stranger");
                assert!(matches!(said, Said::Error { code: 5, .. }) && from == server, "{said:?}");
                told += 1;
            });
            (got, told)
        })
        .join()
        .unwrap();
    assert!(got == bytes);
    assert!(told >= 1000, "{told} injections");
}

#[test]
fn what_is_not_published_is_not_served() {
    if !able(&[]) {
        return;
    }
    let room = room();
    room.folder.publish(&room.published, "boot.efi", 1000);
    let answers = room
        .client
        .run(|| {
            let mut names: Vec<Vec<u8>> = Vec::new();
            let targets =
                ["etc/passwd", "etc/shadow", "proc/self/environ", "dev/zero", "boot.efi", "windows\\win.ini"];
            let ways = [
                "/",
                "//",
                "../",
                "../../../../",
                "/../",
                "./",
                ".//",
                "..\\",
                "..\\..\\",
                "\\",
                "C:\\",
                "C:/",
                "\\\\10.77.0.1\\",
                "%2e%2e/",
                "%252e%252e/",
                "..%2f",
                "..%c0%af",
                "..;/",
                "....//",
                "file:///",
                "~/",
            ];
            for target in targets {
                names.extend(ways.iter().map(|way| format!("{way}{target}").into_bytes()));
            }
            for odd in [
                &b""[..],
                b".",
                b"..",
                b"/",
                b"*",
                b"boot.ef?",
                b"BOOT.EFI",
                b"boot.efi ",
                b"boot.efi/",
                b"\xff\xfe",
                b"boot.efi\r\n",
                b"$(id)",
                b"`id`",
                b"|id",
                b"boot.efi%00",
            ] {
                names.push(odd.into());
            }
            for length in [255, 256, 1000] {
                names.push(vec![b'a'; length]);
            }
            assert!(names.len() >= 100);
            let client = Client::new(SERVER, 0);
            names
                .into_iter()
                .map(|name| {
                    client.ask(&read_request(&name, &[]));
                    let answer = client.hear().expect("a refusal").0;
                    (String::from_utf8_lossy(&name).into_owned(), answer)
                })
                .collect::<Vec<_>>()
        })
        .join()
        .unwrap();
    for (name, answer) in answers {
        assert!(matches!(answer, Said::Error { code: 1 | 2, .. }), "{name}: {answer:?}");
    }
}

#[test]
fn it_is_read_only_and_knows_its_operations() {
    if !able(&["curl"]) {
        return;
    }
    let room = room();
    let codes = room
        .client
        .run(|| {
            let client = Client::new(SERVER, 0);
            let mut codes = Vec::new();
            for bytes in [
                &b"\0\x02new\0octet\0"[..],
                b"\0\x02boot.efi\0netascii\0tsize\x005\0",
                b"\0\x07x",
                b"\xff\xffx",
                b"\0\x01boot.efi",
                b"\0\x01",
                b"\0\x03\0\x01data",
                b"\0\x04\0\x01",
                b"\0\x01a\0netascii\0",
            ] {
                client.ask(bytes);
                match client.hear().expect("an error").0 {
                    Said::Error { code, .. } => codes.push(code),
                    other => panic!("{other:?}"),
                }
            }
            // What is too short to be anything, and errors, which are never answered.
            client.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            client.ask(b"\0\x05\0\x01no\0");
            assert_eq!(client.hear(), None);
            codes
        })
        .join()
        .unwrap();
    assert_eq!(codes, [2, 2, 4, 4, 4, 4, 5, 5, 0]);
    let upload = room.folder.path("upload");
    std::fs::write(&upload, b"x").unwrap();
    let mut curl = room.client.command("curl");
    let curl = curl.arg("-sS").arg("-T").arg(&upload).arg("tftp://10.77.0.1/new").output().unwrap();
    assert!(!curl.status.success());
}

#[test]
fn an_unproven_client_gets_six_packets() {
    if !able(&[]) {
        return;
    }
    let room = room();
    room.folder.publish(&room.published, "forged", 1 << 20);
    let packets = room
        .client
        .run(|| {
            let client = Client::new(SERVER, 0);
            client.socket.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
            client.ask(&read_request(b"forged", &[("blksize", "1468"), ("windowsize", "64")]));
            std::iter::from_fn(|| client.hear()).count()
        })
        .join()
        .unwrap();
    assert_eq!(packets, 6);
}
