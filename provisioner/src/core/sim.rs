//! Test double: a provisioner's core in a temporary directory, and machines that speak to it with their own keys.

use super::{Asker, Core, Now, Parts};
use crate::config;
use crate::store::founding::found;
use crate::store::keys::read_online;
use crate::store::rows::{ArtifactKind, ArtifactRow};
use crate::store::state_dir::StateDir;
use crate::store::{Store, artifacts};
use muster_protocol::class::Class;
use muster_protocol::etcd::NodeSeen;
use muster_protocol::hello::{Answer, Hello, MarkerSummary, Seen};
use muster_protocol::ids::{Arch, Digest, InstanceId, Mac, Number};
use muster_protocol::inventory::{Bus, Contents, Cpu, Disk, DiskId, Dmi, Firmware, Inventory, Nic};
use muster_protocol::keys::SecretKey;
use muster_protocol::order::Order;
use muster_protocol::roster::Operator;
use muster_protocol::signed::{By, Listener, Signed, Trust};
use muster_protocol::status::{Evidence, State, Status};
use muster_protocol::sync::{Claim, ClaimAnswer, SyncReply, SyncRequest};
use muster_protocol::wire;
use std::path::Path;
use tempfile::TempDir;

pub(super) const TOML: &str = r#"
[cluster]
name = "lab"
[provisioner]
interface = "lo"
[k3s]
version = "v1.36.3+k3s1"
[kata]
version = "4.1.0"
require = "files"
[[machine]]
name = "s1"
class = "mini-pc"
role = "server"
mac = ["02:00:00:00:00:01"]
address = "10.77.0.11/24"
install = "auto"
[[machine]]
name = "s2"
class = "mini-pc"
role = "server"
mac = ["02:00:00:00:00:02"]
address = "10.77.0.12/24"
install = "auto"
[[machine]]
name = "s3"
class = "mini-pc"
role = "server"
mac = ["02:00:00:00:00:03"]
address = "10.77.0.13/24"
install = "auto"
[[machine]]
name = "w"
class = "rtx-host"
role = "worker"
mac = ["02:00:00:00:00:04"]
install = "auto"
"#;

pub(super) struct World {
    folder: TempDir,
    pub(super) state: StateDir,
    pub(super) trust: Trust,
    pub(super) operator: SecretKey,
    pub(super) core: Core,
    pub(super) now: Now,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        let operator = SecretKey::from_seed([0xa1; 32]);
        let alice = Operator { name: "alice".into(), key: operator.public() };
        let trust = found(&state, "lab", alice, 1_000_000).unwrap();
        let core = open(&state, &trust, &state.store());
        let now = Now { mono_ms: 1_000, unix_ms: 2_000_000_000, clock: true };
        Self { folder, state, trust, operator, core, now }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, ms: u64) -> Now {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.now
    }

    /// The program was killed and starts again on what is in the file now.
    pub(super) fn restart(mut self) -> Self {
        drop(self.core);
        self.core = open(&self.state, &self.trust, &self.state.store());
        self
    }

    /// A core on a copy of the file as it is at this moment, while the first still has it open.
    pub(super) fn killed_now(&self, name: &str) -> Core {
        let copy = self.folder().join(format!("{name}.redb"));
        std::fs::copy(self.state.store(), &copy).unwrap();
        open(&self.state, &self.trust, &copy)
    }

    /// Registers everything an install needs.
    pub(super) fn with_artifacts(mut self) -> Self {
        let folder = self.state.artifacts();
        let kinds = [
            (ArtifactKind::Uki, "boot.efi", "1"),
            (ArtifactKind::Loader, "loader.efi", "1"),
            (ArtifactKind::NodeImage, "index", "1"),
            (ArtifactKind::Kata, "kata.tar.zst", "4.1.0"),
            (ArtifactKind::K3s, "k3s", "v1.36.3+k3s1"),
        ];
        for (kind, file, version) in kinds {
            let file = artifacts::put_bytes(&folder, file.as_bytes(), file, 0o755).unwrap();
            let row = ArtifactRow {
                kind,
                arch: Arch::X86_64,
                version: version.into(),
                files: vec![file],
                kernel_release: Some("6.12".into()),
                stand_in: None,
                registered_unix_ms: self.now.unix_ms,
            };
            self.core.register(self.now, None, &row).unwrap();
        }
        self
    }

    pub(super) fn open_window(&mut self) {
        let by = super::operator::Person { key: self.operator.public().fingerprint() };
        self.core.open_window(self.now, by, 30).unwrap();
    }

    pub(super) fn person(&self) -> super::operator::Person {
        super::operator::Person { key: self.operator.public().fingerprint() }
    }

    pub(super) fn hello(&mut self, machine: &Sim) -> Answer {
        let now = self.pass(100);
        self.core.hello(now, &machine.asker(), &machine.hello()).unwrap()
    }

    pub(super) fn order(&mut self, machine: &Sim) -> Order {
        match self.hello(machine) {
            Answer::Install(order) => self.verify_order(&order),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn wait_code(&mut self, machine: &Sim) -> u16 {
        match self.hello(machine) {
            Answer::Wait(wait) => wait.code,
            other => panic!("{other:?}"),
        }
    }

    fn verify_order(&self, order: &Signed<Order>) -> Order {
        order.verify(By::Online(&self.trust), &Listener::default()).unwrap().into_inner()
    }

    pub(super) fn claim(&mut self, machine: &Sim, order: &Order) -> ClaimAnswer {
        let now = self.pass(100);
        let claim = Claim { order: order.number, disk: order.disk.clone() };
        self.core.claim(now, &machine.asker(), &claim).unwrap()
    }

    pub(super) fn sync(&mut self, machine: &Sim, request: &SyncRequest) -> SyncReply {
        let now = self.pass(100);
        self.core.sync(now, &machine.asker(), request).unwrap()
    }
}

pub(super) fn open(state: &StateDir, trust: &Trust, store: &Path) -> Core {
    Core::open(Parts {
        store: Store::open(store).unwrap(),
        config: config::parse("cluster.toml", TOML).unwrap(),
        trust: trust.clone(),
        online: read_online(state, trust).unwrap(),
        artifacts: state.artifacts(),
    })
    .unwrap()
}

/// A Node as a server's API shows it, and nothing to say of it but that it is ready.
pub(super) fn ready_node(name: &str) -> NodeSeen {
    NodeSeen {
        name: name.parse().unwrap(),
        ready: true,
        taints: Vec::new(),
        labels: Vec::new(),
        kubelet_version: String::new(),
        runtime_handlers: Vec::new(),
    }
}

/// A machine: its key, its hardware, what its disk remembers.
#[derive(Clone)]
pub(super) struct Sim {
    pub(super) key: SecretKey,
    pub(super) inventory: Inventory,
    pub(super) marker: Option<MarkerSummary>,
    pub(super) seen: Seen,
    pub(super) uptime_ms: u64,
}

impl Sim {
    pub(super) fn new(seed: u8, mac: u8) -> Self {
        let mac = Mac([2, 0, 0, 0, 0, mac]);
        let disk = Disk {
            name: "nvme0n1".into(),
            id: DiskId { wwn: None, serial: Some(format!("DISK-{seed}")), size_bytes: 64 << 30 },
            model: Some("Fast".into()),
            bus: Bus::Nvme,
            removable: false,
            rotational: false,
            logical_block_bytes: 512,
            contents: Some(Contents {
                empty: true,
                evidence: Digest([seed ^ 0x80; 32]),
                found: Vec::new(),
                busy: false,
            }),
        };
        let nic = Nic { name: "eth0".into(), mac, driver: None, carrier: true, speed_mbps: None };
        let inventory = Inventory {
            arch: Arch::X86_64,
            dmi: Dmi::default(),
            cpu: Cpu::default(),
            memory_bytes: 1 << 30,
            disks: vec![disk],
            nics: vec![nic],
            pci: Vec::new(),
            firmware: Firmware { uefi: true, secure_boot: None, variables: true },
            kvm: false,
        };
        Self {
            key: SecretKey::from_seed([seed; 32]),
            inventory,
            marker: None,
            seen: Seen::default(),
            uptime_ms: 9_000,
        }
    }

    pub(super) fn asker(&self) -> Asker {
        Asker { key: self.key.public(), address: std::net::IpAddr::from([10, 77, 0, 100]) }
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            inventory: wire::encode(&self.inventory),
            marker: self.marker,
            seen: self.seen,
            uptime_ms: self.uptime_ms,
            mac: self.inventory.nics[0].mac,
        }
    }

    pub(super) fn install(&mut self, trust: &Trust, order: Number) {
        self.marker = Some(MarkerSummary {
            cluster: trust.cluster,
            order,
            installed: true,
            uki: Digest([0; 32]),
            image: Digest([0; 32]),
        });
        self.seen.order = order;
    }

    pub(super) fn status(&self, name: &str, sequence: u64, state: State) -> Status {
        Status {
            node: Some(name.parse().unwrap()),
            key: self.key.public().fingerprint(),
            boot: InstanceId([7; 8]),
            sequence,
            uptime_ms: 20_000 + sequence,
            state,
            step: None,
            reasons: Vec::new(),
            arch: Arch::X86_64,
            declared: Some(Class::MiniPc),
            detected: Class::Generic,
            fit: None,
            role: None,
            address: None,
            agent_version: "0.1.0".into(),
            kernel: "6.12".into(),
            image: Some(Digest([0; 32])),
            manifest: None,
            evidence: Evidence::default(),
            stand_ins: Vec::new(),
            memory_total: 0,
            memory_available: 0,
            data_free: None,
            stages: Vec::new(),
        }
    }

    pub(super) fn request(&self, name: &str, sequence: u64) -> SyncRequest {
        SyncRequest {
            status: self.status(name, sequence, State::Installed),
            seen: self.seen,
            installed: self.marker.map(|marker| marker.order),
            server: None,
            wants_grant: false,
            results: Vec::new(),
            boxes: Vec::new(),
            clock_nonce: None,
        }
    }
}
