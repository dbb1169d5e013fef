//! The real binary as a service on a LAN of network namespaces: who may start, what a kill leaves, how it ends.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod api_support;
mod support;

use api_support::{LIMIT, ONE, cluster_toml, hello};
use muster_identity::http::Client;
use muster_identity::{Expect, Identity, client_config};
use muster_protocol::hello::Answer;
use muster_protocol::keys::SecretKey;
use muster_protocol::order::Order;
use muster_protocol::signed::{By, Listener, Trust};
use muster_protocol::sync::{Claim, ClaimAnswer};
use muster_protocol::wire::{self, Versioned};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Folder, Host, Lan, able};

fn config(cluster: &str) -> String {
    cluster_toml(cluster, "eth0") + ONE
}

/// One installation of muster: state, configuration, credential.
struct Home {
    root: PathBuf,
}

impl Home {
    fn new(folder: &Folder, name: &str, config: &str) -> Self {
        let home = Self { root: folder.path(name) };
        std::fs::create_dir_all(&home.root).unwrap();
        std::fs::write(home.root.join("cluster.toml"), config).unwrap();
        let made = home.command(Command::new(BINARY)).arg("init").output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        home
    }

    /// Everything, as somebody would copy it to another box.
    fn copy(&self, folder: &Folder, name: &str) -> Self {
        let root = folder.path(name);
        support::must(Command::new("cp").arg("-a").arg(&self.root).arg(&root));
        Self { root }
    }

    fn command(&self, mut command: Command) -> Command {
        command
            .env("MUSTER_STATE", self.root.join("state"))
            .env("MUSTER_CONFIG", self.root.join("cluster.toml"))
            .env("XDG_STATE_HOME", self.root.join("xdg"))
            .env("MUSTER_SERVER", "127.0.0.1:7480")
            .stdin(Stdio::null());
        command
    }

    fn on(&self, host: &Host, args: &[&str]) -> Output {
        self.command(host.command(BINARY)).args(args).output().unwrap()
    }

    fn status(&self, host: &Host) -> serde_json::Value {
        let output = self.on(host, &["status", "-o", "json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn serve(&self, host: &Host) -> Service {
        let at = self.root.join("notify");
        let _old = std::fs::remove_file(&at);
        let socket = UnixDatagram::bind(&at).unwrap();
        // As systemd's own: whoever the service becomes must be able to write to it.
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut command = self.command(host.command(BINARY));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.root.join("log")).unwrap();
        let child =
            command.arg("serve").env("NOTIFY_SOCKET", &at).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let service = Service { child };
        let mut buffer = [0; 512];
        let heard = socket.recv(&mut buffer).map(|length| text(&buffer[..length]));
        let log = std::fs::read_to_string(self.root.join("log")).unwrap();
        assert!(heard.as_ref().is_ok_and(|heard| heard.starts_with("READY=1")), "{heard:?}: {log}");
        service
    }

    fn trust(&self) -> Trust {
        wire::decode(&std::fs::read(self.root.join("state/trust")).unwrap()).unwrap()
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_muster");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `muster serve`; `ip netns exec` becomes it, so its process id is this one.
struct Service {
    child: Child,
}

impl Service {
    fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), started.elapsed())
    }

    fn proc_status(&self, key: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once(':').unwrap().1.trim().to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Asks as an agent from another host of the LAN.
fn ask<Q: Versioned, A: Versioned + Send + 'static>(
    from: &Host,
    trust: &Trust,
    path: &'static str,
    question: &Q,
) -> A {
    let (body, trust) = (wire::encode(question), trust.clone());
    let answered = from.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let identity = Identity::agent(trust.cluster, &SecretKey::from_seed([1; 32])).unwrap();
        let to = SocketAddr::from(([10, 77, 0, 1], 7480));
        let mut client = Client::new(to, client_config(&identity, &trust, Expect::Provisioner).unwrap());
        let response = runtime.block_on(client.post(path, "application/octet-stream", body, LIMIT)).unwrap();
        assert_eq!(response.status, 200, "{}", text(&response.body));
        response.body
    });
    wire::decode(&answered.join().unwrap()).unwrap()
}

fn order(from: &Host, trust: &Trust) -> Order {
    let answer: Answer = ask(from, trust, "/agent/hello", &hello(1, 1));
    let Answer::Install(order) = answer else { panic!("{answer:?}") };
    order.verify(By::Online(trust), &Listener::default()).unwrap().into_inner()
}

/// Registers something for every kind, so that orders can be made.
fn register(home: &Home, folder: &Folder) {
    let state = muster::store::state_dir::StateDir::new(home.root.join("state"));
    let store = muster::store::Store::open(&state.store()).unwrap();
    api_support::register_all(&store, &state);
    let _kept = folder;
}

#[test]
fn one_store_has_one_provisioner_and_a_taken_port_names_its_holder() {
    if !able(&[]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let host = lan.host(Some("10.77.0.1/24"));
    let home = Home::new(&folder, "a", &config("lab"));
    let service = home.serve(&host);
    let second = home.on(&host, &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(
        said.contains("is in use by process") && said.contains(&service.child.id().to_string()),
        "{said}"
    );
    let other = Home::new(&folder, "b", &config("other"));
    let taken = other.on(&host, &["serve"]);
    assert_eq!(taken.status.code(), Some(1));
    let said = text(&taken.stderr);
    assert!(said.contains("port 7480/tcp is taken by `muster` (process"), "{said}");
    let (code, took) = service.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_copied_provisioner_does_not_start_beside_the_first() {
    if !able(&[]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let (host, elsewhere) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.2/24")));
    let home = Home::new(&folder, "a", &config("lab"));
    let copy = home.copy(&folder, "b");
    let _service = home.serve(&host);
    let refused = copy.on(&elsewhere, &["serve"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("another provisioner of this cluster is alive at 10.77.0.1"), "{said}");
}

#[test]
fn two_provisioners_that_meet_later_both_hand_out_nothing_until_one_is_gone() {
    if !able(&[]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let (host, elsewhere) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.2/24")));
    let home = Home::new(&folder, "a", &config("lab"));
    let copy = home.copy(&folder, "b");
    let bridge = |args: &[&str]| support::must(lan.command("ip").args(args));
    // The second host's cable is out while it starts.
    bridge(&["link", "set", "h2", "nomaster"]);
    let (first, second) = (home.serve(&host), copy.serve(&elsewhere));
    bridge(&["link", "set", "h2", "master", "br0"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let frozen = |home: &Home, host: &Host| !home.status(host)["cluster"]["frozen"].is_null();
    while !(frozen(&home, &host) && frozen(&copy, &elsewhere)) {
        assert!(Instant::now() < deadline, "they did not notice each other");
    }
    drop(second);
    while frozen(&home, &host) {
        assert!(
            Instant::now() < deadline + Duration::from_secs(30),
            "it did not notice that the other is gone"
        );
    }
    drop(first);
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_answered() {
    if !able(&[]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let (host, machine) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.11/24")));
    let home = Home::new(&folder, "a", &config("lab"));
    register(&home, &folder);
    let trust = home.trust();
    let mut service = home.serve(&host);
    assert!(home.on(&host, &["admission", "open", "--for", "30m"]).status.success());
    let first = order(&machine, &trust);
    let claim = Claim { order: first.number, disk: first.disk.clone() };
    let mut held = None;
    for round in 0..6 {
        service.kill_9();
        service = home.serve(&host);
        assert_eq!(order(&machine, &trust), first, "round {round}");
        let answer: ClaimAnswer = ask(&machine, &trust, "/agent/v1/claim", &claim);
        assert!(matches!(answer, ClaimAnswer::Held { .. }), "round {round}: {answer:?}");
        assert_eq!(*held.get_or_insert_with(|| answer.clone()), answer, "the same manifest and roster");
    }
    let status = home.status(&host);
    assert_eq!(status["admission"]["open"], true, "the window is remembered, too");
    assert_eq!(status["machines"][0]["order"]["state"], "held");
}

#[test]
fn rights_are_given_up_and_another_user_can_be_named() {
    if !able(&[]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let host = lan.host(Some("10.77.0.1/24"));
    // Only the right to bind low ports: bit 10.
    const LOW_PORTS: &str = "0000000000000400";
    let home = Home::new(&folder, "a", &config("lab"));
    let service = home.serve(&host);
    assert_eq!(service.proc_status("CapEff"), LOW_PORTS);
    assert_eq!(service.proc_status("NoNewPrivs"), "1");
    drop(service);
    let config = config("lab").replace("clock = \"local\"", "clock = \"local\"\nuser = \"nobody\"");
    let home = Home::new(&folder, "b", &config);
    open_way(&home.root);
    let service = home.serve(&host);
    let uid = service.proc_status("Uid");
    assert!(!uid.split_whitespace().any(|id| id == "0"), "{uid}");
    assert_eq!(service.proc_status("CapEff"), LOW_PORTS);
    assert!(home.on(&host, &["admission", "open", "--for", "5m"]).status.success(), "it can write its store");
    assert_eq!(service.terminate().0, Some(0));
}

#[test]
fn a_running_provisioner_is_told_of_new_images_and_serves_them_at_once() {
    if !able(&["curl"]) {
        return;
    }
    let (mut lan, folder) = (Lan::new(), Folder::new());
    let (host, machine) = (lan.host(Some("10.77.0.1/24")), lan.host(Some("10.77.0.11/24")));
    let home = Home::new(&folder, "a", &config("lab"));
    let _service = home.serve(&host);
    std::fs::create_dir_all(folder.path("k3s")).unwrap();
    std::fs::write(folder.path("k3s/k3s"), "#!/bin/sh\n").unwrap();
    let built = home.on(&host, &["image", "build", "--k3s", folder.path("k3s").to_str().unwrap()]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let listed = home.on(&host, &["image", "list", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let digest = rows[0]["files"][0]["digest"].as_str().unwrap().to_string();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut curl = machine.command("curl");
        let got = curl.args(["-sf", &format!("http://10.77.0.1/artifact/{digest}")]).output().unwrap();
        if got.status.success() {
            assert_eq!(text(&got.stdout), "#!/bin/sh\n");
            break;
        }
        assert!(Instant::now() < deadline, "it is not served");
    }
}

/// The test's own folders above the state directory may be closed to others.
fn open_way(path: &Path) {
    for folder in [path, path.parent().unwrap()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}
