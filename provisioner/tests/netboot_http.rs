//! HTTP as firmware and agents use it, and as others should not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use muster::boot::{event::What, published::Published, table::BootTable};
use muster_protocol::ids::Digest;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    time::Duration,
};
use support::{Folder, Host, Lan, Servers, able, must};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Declared in the order in which it must be dropped: servers before their namespaces.
struct Room {
    servers: Servers,
    client: Host,
    bytes: Vec<u8>,
    digest: Digest,
    folder: Folder,
    _lan: Lan,
}

fn room() -> Room {
    let mut lan = Lan::new();
    let (ours, client) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.50/24")));
    let (published, folder) = (Published::default(), Folder::new());
    let bytes = folder.publish(&published, "boot-x86_64.efi", 3_000_001);
    let digest = Digest::of(&bytes);
    published.publish(&digest.to_string(), &folder.path("boot-x86_64.efi"), 3_000_001, digest);
    folder.publish(&published, "empty.efi", 0);
    let servers = ours.serve(BootTable::default(), &published);
    Room { servers, client, bytes, digest, folder, _lan: lan }
}

/// Says `request` on a new connection and gives all that comes until the server closes.
fn say(client: &Host, request: impl Into<Vec<u8>>) -> String {
    let request = request.into();
    let answer = client
        .run(move || {
            let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // The server may close before it has read all of what is too much.
            let _ = stream.write_all(&request);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            answer
        })
        .join()
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn firmware_asks_the_size_and_then_for_the_file_on_one_connection() {
    if !able(&[]) {
        return;
    }
    let mut room = room();
    let got = room
        .client
        .run(|| {
            let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
            let ask = |method: &str| {
                format!("{method} /boot/boot-x86_64.efi HTTP/1.1\r\nHost: 10.77.0.1\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n")
            };
            let head = |stream: &mut TcpStream| {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                String::from_utf8(head).unwrap()
            };
            stream.write_all(ask("HEAD").as_bytes()).unwrap();
            let first = head(&mut stream);
            assert!(first.contains("Content-Type: application/efi\r\nContent-Length: 3000001\r\n"), "{first}");
            stream.write_all(ask("GET").as_bytes()).unwrap();
            assert_eq!(head(&mut stream), first);
            let mut file = vec![0; 3_000_001];
            stream.read_exact(&mut file).unwrap();
            file
        })
        .join()
        .unwrap();
    assert!(got == room.bytes);
    room.servers.wait_for(|event| event.what == What::HttpStart { name: "boot-x86_64.efi".into() });
    room.servers.wait_for(|event| matches!(event.what, What::HttpDone { bytes: 3_000_001, .. }));
}

#[test]
fn ranges_give_their_bytes_at_any_offset() {
    if !able(&["curl"]) {
        return;
    }
    let room = room();
    let url = format!("http://10.77.0.1/artifact/{}", room.digest);
    let luck = support::noise(200 * 4);
    // 200 ranges in one run of curl, each into a file of its own.
    let mut curl = room.client.command("curl");
    curl.args(["-sS", "--fail"]);
    let mut expected = Vec::new();
    for (n, luck) in luck.chunks(4).enumerate() {
        let first = u32::from_le_bytes([luck[0], luck[1], luck[2], 0]) as usize % room.bytes.len();
        let last = first + usize::from(luck[3]) * 300;
        let to = room.folder.path(&format!("range-{n}"));
        if n > 0 {
            curl.arg("--next").args(["-sS", "--fail"]);
        }
        curl.args(["-r", &format!("{first}-{last}"), "-o"]).arg(&to).arg(&url);
        expected.push((to, first..(last + 1).min(room.bytes.len())));
    }
    must(&mut curl);
    for (to, range) in expected {
        assert!(std::fs::read(to).unwrap() == room.bytes[range.clone()], "{range:?}");
    }
    let resumed = room.folder.path("resumed");
    std::fs::write(&resumed, &room.bytes[..1_234_567]).unwrap();
    must(room.client.command("curl").args(["-sS", "--fail", "-C", "-", "-o"]).arg(&resumed).arg(&url));
    assert!(std::fs::read(resumed).unwrap() == room.bytes);
}

#[test]
fn what_cannot_be_answered_is_refused_by_number() {
    if !able(&[]) {
        return;
    }
    let room = room();
    let digest = room.digest;
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    let cases: Vec<(String, &str)> = vec![
        (get("/boot/boot-x86_64.efi", "Range: bytes=3000001-\r\n"), "416"),
        (get("/boot/boot-x86_64.efi", &format!("If-None-Match: \"{digest}\"\r\n")), "304"),
        (get("/boot/empty.efi", ""), "200"),
        (get("/boot/other.efi", ""), "404"),
        (get("/", ""), "404"),
        (get("//boot/boot-x86_64.efi", ""), "404"),
        (get("/boot/../boot/boot-x86_64.efi", ""), "404"),
        (get("/boot/%2e%2e/etc/passwd.efi", ""), "404"),
        (get("/boot/../../../../etc/passwd", ""), "404"),
        (get("/artifact/../../etc/passwd", ""), "404"),
        (get(&format!("/artifact/{}", "0".repeat(64)), ""), "404"),
        (get(&format!("/boot/{digest}"), ""), "404"),
        (get("/boot/boot-x86_64.efi", &format!("X: {}\r\n", "a".repeat(17_000))), "431"),
        (get("/boot/boot-x86_64.efi", &"a: b\r\n".repeat(100)), "431"),
        ("POST /boot/boot-x86_64.efi HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".into(), "405"),
        ("PUT /boot/new.efi HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(), "405"),
        ("GET / HTTP/2.0\r\n\r\n".into(), "400"),
        ("hello\r\n\r\n".into(), "400"),
        ("\0\0\0\0".into(), "400"),
    ];
    for (request, status) in cases {
        let answer = say(&room.client, request.as_str());
        let line = request.lines().next().unwrap_or_default();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line:.80}: {answer:.200}");
    }
    // Nothing at all is not answered.
    assert_eq!(say(&room.client, ""), "");
}

#[test]
fn ten_thousand_requests_in_a_row_are_answered_in_order() {
    if !able(&[]) {
        return;
    }
    let room = room();
    let one = "HEAD /boot/boot-x86_64.efi HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = room
        .client
        .run(move || {
            let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                writer.write_all(one.repeat(10_000).as_bytes()).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut answers = String::new();
            stream.read_to_string(&mut answers).unwrap();
            writing.join().unwrap();
            answers.matches("HTTP/1.1 200 OK\r\n").count()
        })
        .join()
        .unwrap();
    assert_eq!(answers, 10_000);
}

#[test]
fn five_hundred_who_dawdle_do_not_keep_fifty_from_their_file() {
    if !able(&["curl"]) {
        return;
    }
    let room = room();
    let (sender, opened) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let dawdlers = room.client.run(move || {
        let streams: Vec<_> = (0..500)
            .map(|_| {
                let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
                stream.write_all(b"GET /boot/boot-x86_64.efi HT").unwrap();
                stream
            })
            .collect();
        sender.send(()).unwrap();
        let _ = stopped.recv();
        drop(streams);
    });
    opened.recv().unwrap();
    let running: Vec<_> = (0..50)
        .map(|n| {
            let to = room.folder.path(&format!("fifty-{n}"));
            let mut curl = room.client.command("curl");
            curl.args(["-sS", "--fail", "-o"]).arg(&to).arg("http://10.77.0.1/boot/boot-x86_64.efi");
            (curl.spawn().unwrap(), to)
        })
        .collect();
    for (mut child, to) in running {
        assert!(child.wait().unwrap().success());
        assert!(std::fs::read(to).unwrap() == room.bytes);
    }
    drop(stop);
    dawdlers.join().unwrap();
}
