//! A provisioner's API on a loopback port, and machines and operators that speak to it over TLS with their own keys.
#![allow(dead_code, reason = "each test file uses its part")]

use muster::config;
use muster::core::{Core, Parts};
use muster::serve::api;
use muster::serve::shared::Shared;
use muster::store::founding::found;
use muster::store::keys::read_online;
use muster::store::rows::{ArtifactKind, ArtifactRow};
use muster::store::state_dir::StateDir;
use muster::store::{Store, artifacts};
use muster_identity::http::{Client, Response};
use muster_identity::{Expect, Identity, client_config, server_config};
use muster_protocol::class::Class;
use muster_protocol::hello::{Answer, Hello, Seen};
use muster_protocol::ids::{Arch, Digest, InstanceId, Mac};
use muster_protocol::inventory::{Bus, Contents, Cpu, Disk, DiskId, Dmi, Firmware, Inventory, Nic};
use muster_protocol::keys::SecretKey;
use muster_protocol::order::Order;
use muster_protocol::roster::Operator;
use muster_protocol::signed::{By, Listener, Trust};
use muster_protocol::status::{Evidence, State, Status};
use muster_protocol::sync::{Claim, ClaimAnswer};
use muster_protocol::wire::{self, Versioned};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A `cluster.toml` without machines.
pub(crate) fn cluster_toml(cluster: &str, interface: &str) -> String {
    format!(
        r#"
[cluster]
name = "{cluster}"
topology = "single"
[provisioner]
interface = "{interface}"
clock = "local"
[k3s]
version = "v1.36.3+k3s1"
"#
    )
}

/// The machine with the MAC of `hello(_, 1)`.
pub(crate) const ONE: &str = r#"
[[machine]]
name = "one"
class = "mini-pc"
role = "server"
mac = ["02:00:00:00:00:01"]
address = "10.77.0.11/24"
install = "auto"
"#;

const TWO: &str = r#"
[[machine]]
name = "two"
class = "rtx-host"
role = "worker"
mac = ["02:00:00:00:00:02"]
"#;

pub(crate) struct Served {
    pub(crate) folder: TempDir,
    pub(crate) trust: Trust,
    pub(crate) operator: SecretKey,
    pub(crate) at: SocketAddr,
    pub(crate) shared: Shared,
    stop: watch::Sender<bool>,
    running: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        let operator = SecretKey::from_seed([0xa1; 32]);
        let alice = Operator { name: "alice".into(), key: operator.public() };
        let trust = found(&state, "lab", alice, 1_000_000).unwrap();
        let online = read_online(&state, &trust).unwrap();
        let store = Store::open(&state.store()).unwrap();
        register_all(&store, &state);
        let identity = Identity::provisioner(trust.cluster, &online).unwrap();
        let tls = server_config(&identity, &trust).unwrap();
        let config = config::parse("cluster.toml", &(cluster_toml("lab", "lo") + ONE + TWO)).unwrap();
        let artifacts = state.artifacts();
        let core = Core::open(Parts { store, config, trust: trust.clone(), online, artifacts }).unwrap();
        let shared = Shared::new(core).unwrap();
        let listener = api::open(0).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (stop, told) = watch::channel(false);
        let running = tokio::spawn(api::run(listener, tls, trust.clone(), shared.clone(), told));
        Self { folder, trust, operator, at, shared, stop, running }
    }

    /// Ends it and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap().unwrap();
    }

    pub(crate) fn agent(&self, key: &SecretKey) -> Client {
        let identity = Identity::agent(self.trust.cluster, key).unwrap();
        Client::new(self.at, client_config(&identity, &self.trust, Expect::Provisioner).unwrap())
    }

    pub(crate) fn operator(&self) -> Client {
        self.operator_with(&self.operator)
    }

    pub(crate) fn operator_with(&self, key: &SecretKey) -> Client {
        let identity = Identity::operator(self.trust.cluster, key).unwrap();
        Client::new(self.at, client_config(&identity, &self.trust, Expect::Provisioner).unwrap())
    }

    pub(crate) async fn post_json(&self, path: &str, body: &str) -> Response {
        self.operator().post(path, "application/json", body.into(), LIMIT).await.unwrap()
    }

    pub(crate) async fn get_json(&self, path: &str) -> serde_json::Value {
        let response = self.operator().get(path, LIMIT).await.unwrap();
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        serde_json::from_slice(&response.body).unwrap()
    }
}

pub(crate) fn register_all(store: &Store, state: &StateDir) {
    for (kind, file) in [
        (ArtifactKind::Uki, "boot.efi"),
        (ArtifactKind::Loader, "loader.efi"),
        (ArtifactKind::NodeImage, "index"),
        (ArtifactKind::K3s, "k3s"),
    ] {
        let file = artifacts::put_bytes(&state.artifacts(), file.as_bytes(), file, 0o755).unwrap();
        let version = if kind == ArtifactKind::K3s { "v1.36.3+k3s1" } else { "1" };
        let row = ArtifactRow {
            kind,
            arch: Arch::X86_64,
            version: version.into(),
            files: vec![file],
            kernel_release: Some("6.12".into()),
            stand_in: None,
            registered_unix_ms: 1,
        };
        store.write(|tx| artifacts::register(tx, &state.artifacts(), &row)).unwrap();
    }
}

/// Asks as an agent; a status other than 200 is returned as it is.
pub(crate) async fn ask<Q: Versioned, A: Versioned>(
    client: &mut Client,
    path: &str,
    question: &Q,
) -> Result<A, Response> {
    let body = wire::encode(question);
    let response = client.post(path, "application/octet-stream", body, LIMIT).await.unwrap();
    if response.status == 200 { Ok(wire::decode(&response.body).unwrap()) } else { Err(response) }
}

pub(crate) fn hello(seed: u8, mac: u8) -> Hello {
    let mac = Mac([2, 0, 0, 0, 0, mac]);
    let disk = Disk {
        name: "nvme0n1".into(),
        id: DiskId { wwn: None, serial: Some(format!("DISK-{seed}")), size_bytes: 64 << 30 },
        model: None,
        bus: Bus::Nvme,
        removable: false,
        rotational: false,
        logical_block_bytes: 512,
        contents: Some(Contents { empty: true, evidence: Digest([9; 32]), found: Vec::new(), busy: false }),
    };
    let inventory = Inventory {
        arch: Arch::X86_64,
        dmi: Dmi::default(),
        cpu: Cpu::default(),
        memory_bytes: 1 << 30,
        disks: vec![disk],
        nics: vec![Nic { name: "eth0".into(), mac, driver: None, carrier: true, speed_mbps: None }],
        pci: Vec::new(),
        firmware: Firmware { uefi: true, secure_boot: None, variables: true },
        kvm: false,
    };
    Hello { inventory: wire::encode(&inventory), marker: None, seen: Seen::default(), uptime_ms: 5_000, mac }
}

pub(crate) fn status(key: &SecretKey, state: State) -> Status {
    Status {
        node: None,
        key: key.public().fingerprint(),
        boot: InstanceId([3; 8]),
        sequence: 1,
        uptime_ms: 6_000,
        state,
        step: None,
        reasons: vec!["told\x1b[31m so".into()],
        arch: Arch::X86_64,
        declared: None,
        detected: Class::Generic,
        fit: None,
        role: None,
        address: None,
        agent_version: "0.1.0".into(),
        kernel: "6.12".into(),
        image: None,
        manifest: None,
        evidence: Evidence::default(),
        stand_ins: Vec::new(),
        memory_total: 0,
        memory_available: 0,
        data_free: None,
        stages: Vec::new(),
    }
}

/// Opens the window, says hello, and reads the order.
pub(crate) async fn order_for(served: &Served, key: &SecretKey, mac: u8) -> Order {
    let opened = served.post_json("/v1/admission", r#"{"minutes":30}"#).await;
    assert_eq!(opened.status, 200);
    let answer: Answer = ask(&mut served.agent(key), "/agent/hello", &hello(1, mac)).await.unwrap();
    let Answer::Install(order) = answer else { panic!("{answer:?}") };
    order.verify(By::Online(&served.trust), &Listener::default()).unwrap().into_inner()
}

pub(crate) async fn claim(served: &Served, key: &SecretKey, order: &Order) -> ClaimAnswer {
    let claim = Claim { order: order.number, disk: order.disk.clone() };
    ask(&mut served.agent(key), "/agent/v1/claim", &claim).await.unwrap()
}
