//! Our boot servers beside the best of others, in the same run: throughput, and processor seconds for a gigabyte.
//!
//! `cargo bench -p muster --bench netboot [-- tftp|loss-1|loss-5|http]...`; needs root. The peers come from
//! `tests/bench/peers.sh`. Each figure is the median of three runs (one where packets are lost), taken in turn; the client is ours for all of them and
//! runs on the same two cores, so that what counts is the ratio. Ends with 1 when a budget of the design is missed.
#![allow(clippy::unwrap_used, reason = "a bench that cannot run ends")]

/// Processor time.
mod account;
/// Clients.
mod load;
/// Servers: ours and theirs.
mod peers;
#[path = "../../tests/support/mod.rs"]
mod support;
/// Figures, beside their budgets.
mod table;

use load::Load;
use peers::Server;
use std::{path::Path, process::ExitCode, time::Duration};
use support::{Host, Lan, able, noise};
use table::{Budget, Figure, Seen, Table};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [serve, interface, folder] = arguments.as_slice()
        && serve == "serve"
    {
        return peers::serve_ours(interface, folder.as_ref());
    }
    if !able(&[]) {
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|word| word == name);
    let peers = peers::fetch();
    println!("{}", std::fs::read_to_string(peers.join("versions")).unwrap());
    let mut met = true;
    if wanted("tftp") {
        met &= tftp(&peers);
    }
    for percent in [1, 5] {
        if wanted(&format!("loss-{percent}")) {
            met &= loss(&peers, percent);
        }
    }
    if wanted("http") {
        met &= http(&peers);
    }
    ExitCode::from(u8::from(!met))
}

/// One server and one client on a bridge of their own, with cards as good as real ones and a file to serve.
struct Room {
    ours: Host,
    client: Host,
    folder: support::Folder,
    lan: Lan,
}

fn room(size: usize) -> Room {
    let mut lan = Lan::new();
    let (ours, client) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.50/24")));
    let folder = support::Folder::new();
    std::fs::write(folder.path("file.efi"), noise(size)).unwrap();
    lan.offload(&[&ours, &client]);
    Room { ours, client, folder, lan }
}

fn tftp(peers: &Path) -> bool {
    let mut table = Table::new("TFTP, blocks of 1468 bytes, one client, 64 MiB");
    let scene = room(64 << 20);
    for (window, faster, cheaper) in [(1, 0.95, 1.0), (4, 0.95, 1.0), (16, 1.2, 0.5), (64, 1.2, 0.5)] {
        let load = Load::Tftp { window, clients: 1, limit: Duration::from_secs(60) };
        let row = measure(&scene, peers, Server::TFTP, &load, 64 << 20, 3);
        table.row(&format!("window {window}"), &row, &Budget { faster, cheaper });
    }
    let crowd = room(8 << 20);
    let load = Load::Tftp { window: 1, clients: 50, limit: Duration::from_secs(120) };
    let row = measure(&crowd, peers, Server::TFTP, &load, 50 * (8 << 20), 3);
    table.row("50 clients × 8 MiB, window 1", &row, &Budget { faster: 0.95, cheaper: 1.0 });
    table.met
}

/// Peers wait seconds for each lost packet: one run each, and no longer than a minute.
fn loss(peers: &Path, percent: u32) -> bool {
    let mut table = Table::new("TFTP where packets are lost both ways");
    for (window, size) in [(1, 1 << 20), (16, 4 << 20)] {
        let scene = room(size);
        scene.lan.lose(percent);
        let load = Load::Tftp { window, clients: 1, limit: Duration::from_secs(60) };
        let row = measure(&scene, peers, Server::TFTP, &load, size, 1);
        let name = format!("{percent} %, window {window}, {} MiB", size >> 20);
        table.row(&name, &row, &Budget { faster: 5.0, cheaper: f64::INFINITY });
    }
    table.met
}

fn http(peers: &Path) -> bool {
    let mut table = Table::new("HTTP, 256 MiB each client");
    let scene = room(256 << 20);
    for clients in [1, 7, 50] {
        let load = Load::Http { clients, limit: Duration::from_secs(120) };
        let row = measure(&scene, peers, Server::HTTP, &load, clients as usize * (256 << 20), 3);
        table.row(&format!("{clients} clients"), &row, &Budget { faster: 0.9, cheaper: 1.5 });
    }
    table.met
}

/// Each server so many times, in turn.
fn measure(
    room: &Room,
    peers: &Path,
    servers: &[Server],
    load: &Load,
    bytes: usize,
    times: usize,
) -> Vec<(Server, Seen)> {
    let mut runs: Vec<(Server, Vec<Seen>)> = servers.iter().map(|server| (*server, Vec::new())).collect();
    for _ in 0..times {
        for (server, seen) in &mut runs {
            let running = server.start(&room.ours, peers, &room.folder);
            let before = running.cpu();
            let (took, whole) = load.run(&room.client, bytes);
            let cpu = running.cpu() - before;
            seen.push(match whole {
                Some(came) => Seen::Done(Figure::new(bytes, &came, took, cpu)),
                None => Seen::late(bytes, load.limit()),
            });
        }
    }
    runs.into_iter().map(|(server, seen)| (server, table::median(seen))).collect()
}
