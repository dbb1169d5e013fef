//! What a fleet costs: `muster status` while only the agents can answer, the agents' memory, and the provisioner's, idle
//! and while 200 machines boot.
//!
//! `cargo bench -p muster --bench fleet [-- lan|crowd|storm]...`; needs root. The agent is the static one that
//! `make dist` made (`MUSTER_DIST`, default target/dist); `MUSTER_NETBOOT` names the parts of a boot image. Ends with 1
//! when a budget of the design is missed.
#![allow(clippy::unwrap_used, reason = "a bench that cannot run ends")]

#[path = "../../tests/api_support/mod.rs"]
mod api_support;
/// Ten thousand agents that are one process.
mod crowd;
/// A cluster's keys, and files for its agents and its operator.
mod home;
#[path = "../../tests/support/pxe.rs"]
mod pxe;
/// Two hundred machines boot.
mod storm;
#[path = "../../tests/support/mod.rs"]
mod support;

use home::Home;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use support::{Host, Lan, Running, able};

const AGENTS: u32 = 7;
const CROWD: u32 = 10_000;
const QUERIES: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [part, count, operator] = arguments.as_slice()
        && part == "be-crowd"
    {
        return crowd::answer(count.parse().unwrap(), operator);
    }
    if !able(&["ss"]) {
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|word| word == name);
    let mut met = true;
    if wanted("lan") {
        met &= lan();
    }
    if wanted("crowd") {
        met &= crowd();
    }
    if wanted("storm") {
        met &= storm::run();
    }
    ExitCode::from(u8::from(!met))
}

/// Real node services, each in a namespace of its own.
fn lan() -> bool {
    let mut lan = Lan::new();
    let asker = lan.host(Some("10.77.0.1/16"));
    let folder = support::Folder::new();
    let home = Home::new(&folder, AGENTS);
    let agent = dist().join(format!("muster-agent-{}", std::env::consts::ARCH));
    assert!(agent.is_file(), "{} is missing; `make dist` makes it", agent.display());
    // A host that is dropped takes its programs with it.
    let hosts: Vec<Host> = (0..AGENTS).map(|n| lan.host(Some(&format!("{}/16", home::address(n))))).collect();
    let agents: Vec<Running> = (0..AGENTS)
        .zip(&hosts)
        .map(|(n, host)| {
            let root = home.node(n).display().to_string();
            host.start(&agent.display().to_string(), &["node", "--root", &root])
        })
        .collect();
    let heard = |text: &str| text.lines().filter(|line| line.starts_with("node-")).count();
    let silent = |text: &str| text.matches(" silent ").count();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (text, _) = status(&asker, &home);
        if heard(&text) == AGENTS as usize && silent(&text) == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "not all agents answer: {text}");
    }
    let mut times = Vec::new();
    for _ in 0..QUERIES {
        let (text, took) = status(&asker, &home);
        assert_eq!(silent(&text), 0, "{text}");
        times.push(took.as_secs_f64() * 1000.0);
    }
    let speed = row(
        &format!("LAN status, p95 of {QUERIES}, {AGENTS} real agents in namespaces"),
        p95(times),
        "ms",
        50.0,
    );
    let largest = agents.iter().map(|agent| memory(agent.id(), "VmRSS")).fold(0.0, f64::max);
    speed & row("agent as a service, largest RSS of these", largest, "MiB", 12.0)
}

/// The same question to ten thousand: one process has all their keys and addresses, and answers as each would.
fn crowd() -> bool {
    let mut lan = Lan::new();
    let (asker, others) = (lan.host(Some("10.77.0.1/16")), lan.host(Some("10.77.255.1/16")));
    support::must(others.command("ip").args(["route", "add", "local", home::CROWD, "dev", "eth0"]));
    let folder = support::Folder::new();
    let home = Home::new(&folder, CROWD);
    let own = std::env::current_exe().unwrap().display().to_string();
    let crowd = others.start(&own, &["be-crowd", &CROWD.to_string(), &home.operator_hex()]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let listens = || support::must(others.command("ss").arg("-Hlun")).contains(":7481 ");
    while !listens() {
        assert!(Instant::now() < deadline, "the crowd does not listen");
    }
    let (mut times, mut silent) = (Vec::new(), 0);
    for _ in 0..QUERIES {
        let (text, took) = status(&asker, &home);
        assert_eq!(text.lines().filter(|line| line.starts_with("node-")).count(), CROWD as usize);
        silent += text.matches(" silent ").count();
        times.push(took.as_secs_f64());
    }
    drop(crowd);
    let what =
        format!("LAN status, p95 of {QUERIES}, {CROWD} simulated agents ({silent} answers missing in all)");
    row(&what, p95(times), "s", 2.0) & (silent == 0)
}

/// `muster status --lan` from its start to its end, as a person waits for it.
fn status(asker: &Host, home: &Home) -> (String, Duration) {
    let mut command = asker.command(env!("CARGO_BIN_EXE_muster"));
    let command = command.args(["status", "--lan", "--cluster", home::NAME]);
    let command = command.env("XDG_STATE_HOME", home.operator()).stdin(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let output = command.output().unwrap();
    let took = began.elapsed();
    (String::from_utf8_lossy(&output.stdout).into_owned(), took)
}

/// The 19th of twenty.
fn p95(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * 95).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A line with its budget; whether it is met.
fn row(what: &str, seen: f64, unit: &str, budget: f64) -> bool {
    let met = seen <= budget;
    println!(
        "{what:<70} {seen:8.2} {unit:3}   budget {budget:4} {unit:3}   {}",
        if met { "met" } else { "MISSED" }
    );
    met
}

/// A line of `/proc/PID/status`, in MiB.
fn memory(process: u32, line: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let found = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib: f64 = found.unwrap().trim().trim_end_matches("kB").trim().parse().unwrap();
    kib / 1024.0
}

fn dist() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    std::env::var_os("MUSTER_DIST").map_or_else(default, PathBuf::from)
}
