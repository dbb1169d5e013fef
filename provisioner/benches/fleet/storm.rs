//! Two hundred machines boot from the real provisioner: its memory before, and the most of it meanwhile.
//!
//! Of a machine there is what the provisioner sees of it: its broadcast, the TFTP transfer in blocks of 1468 bytes and
//! windows of 4, all of them at the same time, and over TLS its hello and its status with a key of its own. Simulated are
//! the machines: eight addresses, a thread each; a block is counted and thrown away.

use super::api_support;
use super::pxe::{self, Rom};
use super::support::{self, Folder, Host, Lan, noise};
use super::{dist, memory, row};
use muster::store::founding::found;
use muster::store::state_dir::StateDir;
use muster_identity::http::Client;
use muster_identity::{Expect, Identity, client_config};
use muster_protocol::dhcp::{MessageType, code};
use muster_protocol::hello::Answer;
use muster_protocol::ids::{InstanceId, Mac};
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Operator;
use muster_protocol::signed::Trust;
use muster_protocol::status::{State, Status};
use muster_protocol::sync::Report;
use muster_protocol::wire;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const MACHINES: u8 = 200;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LIMIT: Duration = Duration::from_secs(240);

pub(super) fn run() -> bool {
    let Some(netboot) = std::env::var_os("MUSTER_NETBOOT") else {
        println!("SKIP: 200 machines: MUSTER_NETBOOT does not say where the parts of a boot image are");
        return true;
    };
    let mut lan = Lan::new();
    let ours = lan.host(Some("10.77.0.1/16"));
    // The API takes 32 connections from one address.
    let clients: Vec<Host> = (0..8).map(|n| lan.host(Some(&format!("10.77.0.{}/16", 50 + n)))).collect();
    let folder = Folder::new();
    let state = folder.path("state");
    let operator = Operator { name: "ann".into(), key: SecretKey::from_seed([50; 32]).public() };
    let trust = found(&StateDir::new(state.clone()), "bench", operator, 1_700_000_000).unwrap();
    std::fs::write(folder.path("cluster.toml"), configuration()).unwrap();
    let muster = |words: &[&str]| {
        let mut command = ours.command(env!("CARGO_BIN_EXE_muster"));
        command.args(words).env("MUSTER_STATE", &state).env("MUSTER_CONFIG", folder.path("cluster.toml"));
        command.env("XDG_STATE_HOME", folder.path("operator"));
        command
    };
    let agent = dist().join("muster-agent-x86_64").display().to_string();
    let netboot = netboot.to_string_lossy();
    let image = ["image", "build", "--arch", "x86_64", "--netboot", &netboot, "--agent", &agent];
    support::must(&mut muster(&image));
    let mut serve = muster(&["serve"]);
    let serve =
        support::Running::of(serve.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !support::must(ours.command("ss").arg("-Hltn")).contains(":7480 ") {
        assert!(Instant::now() < deadline, "the provisioner does not listen");
    }
    let file = offered(&clients[0], mac(0));
    let mut met = row("provisioner idle, RSS", memory(serve.id(), "VmRSS"), "MiB", 24.0);

    let over = Arc::new(AtomicBool::new(false));
    let (watched, stop) = (serve.id(), Arc::clone(&over));
    let most = std::thread::spawn(move || {
        let mut most = (0.0_f64, 0.0_f64);
        while !stop.load(Ordering::Relaxed) {
            most = (most.0.max(memory(watched, "RssAnon")), most.1.max(memory(watched, "VmRSS")));
            std::thread::park_timeout(Duration::from_millis(20));
        }
        most
    });
    let began = Instant::now();
    (0..MACHINES).for_each(|n| assert_eq!(offered(&clients[0], mac(n)), file));
    let bytes = storm(&clients, &file, &trust);
    let took = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let (anonymous, resident) = most.join().unwrap();
    println!(
        "{MACHINES} machines had {:.0} MB by TFTP and were answered over TLS in {took:.0} s; most RSS {resident:.1} MiB",
        bytes as f64 / 1e6
    );
    met &= row("provisioner, 200 machines booting, RssAnon", anonymous, "MiB", 96.0);
    met
}

/// All machines are declared and none is approved: each boots, says hello and waits.
fn configuration() -> String {
    let machine = |n: u8| {
        let role = if n == 0 { "server" } else { "worker" };
        let address = 10 + u32::from(n);
        format!(
            "[[machine]]\nname = \"node-{n}\"\nclass = \"mini-pc\"\nrole = \"{role}\"\nmac = [\"{}\"]\n\
             address = \"10.77.1.{address}/16\"\n",
            mac(n)
        )
    };
    api_support::cluster_toml("bench", "eth0") + &(0..MACHINES).map(machine).collect::<String>()
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// The file that a machine is offered: by broadcast, and on 4011 where the offer does not say it.
fn offered(client: &Host, mac: Mac) -> String {
    let rom = Rom::edk2(mac);
    // as a ROM does, which asks four times
    let mut offers = (0..4).filter_map(|_| pxe::offer(client, &rom.packet(MessageType::Discover), SERVER));
    let offer = offers.next().expect("an offer");
    if let Some(file) = offer.options.text(code::BOOT_FILE) {
        return file.into();
    }
    let mut request = rom.packet(MessageType::Request);
    request.ciaddr = Ipv4Addr::new(10, 77, 0, 50);
    let ack = pxe::ask_4011(client, &request, SERVER, 68).expect("an acknowledgement");
    ack.options.text(code::BOOT_FILE).expect("a file").into()
}

/// All machines at once; nobody says hello before everybody has the file.
fn storm(clients: &[Host], file: &str, trust: &Trust) -> u64 {
    let (deadline, all) = (Instant::now() + LIMIT, Arc::new(Barrier::new(usize::from(MACHINES))));
    let machines: Vec<_> = (0..MACHINES)
        .map(|n| {
            let (file, trust, all) = (file.to_string(), trust.clone(), Arc::clone(&all));
            clients[usize::from(n) % clients.len()].run(move || {
                let bytes = fetch(&file, deadline);
                all.wait();
                ask(n, &trust);
                bytes
            })
        })
        .collect();
    machines.into_iter().map(|machine| machine.join().unwrap()).sum()
}

/// As EDK2 fetches: blocks of 1468 bytes, windows of 4; after a gap it says what it has.
fn fetch(file: &str, deadline: Instant) -> u64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = format!("\0\x01{file}\0octet\0blksize\x001468\0windowsize\x004\0");
    socket.send_to(request.as_bytes(), (SERVER, 69)).unwrap();
    let (mut server, mut expected, mut in_window, mut total) = (None::<SocketAddr>, 1_u16, 0, 0_u64);
    let mut buffer = [0; 2048];
    loop {
        assert!(Instant::now() < deadline, "a machine has {total} bytes of {file} and no more");
        let acknowledge = |to: SocketAddr, number: u16| {
            let [high, low] = number.to_be_bytes();
            socket.send_to(&[0, 4, high, low], to).unwrap();
        };
        let Ok((size, from)) = socket.recv_from(&mut buffer) else {
            match server {
                None => drop(socket.send_to(request.as_bytes(), (SERVER, 69)).unwrap()),
                Some(server) => acknowledge(server, expected.wrapping_sub(1)),
            }
            continue;
        };
        let number = u16::from_be_bytes([buffer[2], buffer[3]]);
        match (buffer[1], *server.get_or_insert(from)) {
            (_, server) if server != from => {}
            (6, _) => acknowledge(from, 0),
            (3, _) if number == expected => {
                (expected, in_window, total) =
                    (expected.wrapping_add(1), in_window + 1, total + size as u64 - 4);
                let last = size - 4 < 1468;
                if in_window == 4 || last {
                    in_window = 0;
                    acknowledge(from, number);
                }
                if last {
                    return total;
                }
            }
            (3, _) => {
                if std::mem::take(&mut in_window) > 0 {
                    acknowledge(from, expected.wrapping_sub(1));
                }
            }
            (_, _) => panic!("{}", String::from_utf8_lossy(&buffer[4..size])),
        }
    }
}

/// Hello and status with a key of its own.
fn ask(n: u8, trust: &Trust) {
    let key = SecretKey::from_seed([n; 32]);
    let identity = Identity::agent(trust.cluster, &key).unwrap();
    let config = client_config(&identity, trust, Expect::Provisioner).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut http = Client::new(SocketAddr::from((SERVER, 7480)), config);
        for (path, body) in
            [("/agent/hello", wire::encode(&api_support::hello(n, n))), ("/agent/v1/report", report(&key))]
        {
            let answer = http.post(path, "application/octet-stream", body, LIMIT).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
            if path == "/agent/hello" {
                assert!(matches!(wire::decode::<Answer>(&answer.body).unwrap(), Answer::Wait(_)));
            }
        }
    });
}

fn report(key: &SecretKey) -> Vec<u8> {
    let mut boot = [0; 8];
    boot.copy_from_slice(&noise(8));
    let status = Status { boot: InstanceId(boot), ..api_support::status(key, State::Waiting) };
    wire::encode(&Report { status, installed: None, log: Vec::new() })
}
