//! One machine: admitted and seeded as the boot image does it, then the installed system's agent and k3s's unit under
//! lab-supervisor, switched on and off.

use crate::home::{Home, role};
use crate::lan::{PROVISIONER, address};
use crate::parts::Parts;
use muster_agent::install::claim::{claim, held, is_mine};
use muster_agent::install::seed::{Content, seeds};
use muster_agent::node::gate::record::Kept;
use muster_agent::state::{BOOT, Boot, Root};
use muster_agent::talk::Provisioner;
use muster_protocol::class::Class;
use muster_protocol::hello::{Answer, Hello, Seen};
use muster_protocol::ids::{Arch, Cidr, Digest, InstanceId, Mac, NodeName, Number, Role};
use muster_protocol::inventory::{Bus, Contents, Cpu, Disk, DiskId, Dmi, Firmware, Inventory, Nic};
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::{By, Listener};
use muster_protocol::wire;
use netns::Netns;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/node/root/etc/systemd/system");
const API: (std::net::Ipv4Addr, u16) = (PROVISIONER, 7480);

pub(crate) fn name(n: u8) -> NodeName {
    format!("mini-pc-{n}").parse().unwrap()
}

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

pub(crate) struct Machine {
    n: u8,
    pub(crate) netns: Netns,
    root: PathBuf,
    agent: PathBuf,
    supervisor: PathBuf,
    /// Under which its disk was installed.
    order: Number,
    boots: u8,
    processes: Vec<Child>,
}

impl Machine {
    /// From the first hello to the seeded disk, in the running provisioner's open window.
    pub(crate) fn installed(n: u8, root: PathBuf, netns: Netns, parts: &Parts, home: &Home) -> Self {
        let trust = home.trust();
        let asked = netns.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut provisioner = Provisioner::new(SocketAddr::from(API), &trust, &key(n)).unwrap();
                let answer = provisioner.hello(&hello(n)).await.unwrap();
                let Answer::Install(order) = answer else { panic!("{answer:?}") };
                let order = order.verify(By::Online(&trust), &Listener::default()).unwrap();
                is_mine(order.get(), &key(n)).unwrap();
                let answer = provisioner.claim(&claim(order.get())).await.unwrap();
                let held = held(answer, &order, &trust, None).unwrap();
                (order.get().number, held)
            })
        });
        let (order, held) = asked.join().unwrap();
        for seed in seeds(&held, &home.trust(), &key(n)) {
            let path = root.join("var").join(seed.path);
            match seed.what {
                Content::Folder => fs::create_dir_all(&path).unwrap(),
                Content::File(bytes) => fs::write(&path, bytes.as_slice()).unwrap(),
            }
            fs::set_permissions(&path, PermissionsExt::from_mode(seed.mode)).unwrap();
        }
        // What the node image has.
        for folder in ["usr/local/bin", "control", "bin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink(root.join("var/lib/muster/k3s/current/k3s"), root.join("usr/local/bin/k3s")).unwrap();
        symlink(&parts.supervisor, root.join("bin/systemctl")).unwrap();
        let (agent, supervisor) = (parts.agent.clone(), parts.supervisor.clone());
        Self { n, netns, root, agent, supervisor, order, boots: 0, processes: Vec::new() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(&self.root)
    }

    fn unit(&self) -> &'static str {
        match role(self.n) {
            Role::Server => "k3s.service",
            Role::Worker => "k3s-agent.service",
        }
    }

    fn inside(&self, program: &Path) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.netns.command(program);
        command
            .stdin(Stdio::null())
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("MUSTER_ROOT", &self.root)
            // What a killed process leaves goes with the machine.
            .env("TMPDIR", self.path("tmp"))
            .env("LAB_SUPERVISOR_DIR", self.path("control"))
            .env("K3S_STANDIN_ROOT", &self.root)
            .env("K3S_STANDIN_ETCD", self.path("var/lib/muster/k3s/current/etcd"))
            .env("K3S_STANDIN_EXEC_LOG", self.path("starts"));
        command
    }

    /// Supervisor and agent, as systemd would have them after PID 1 switched into the installed system.
    pub(crate) fn power_on(&mut self) {
        assert!(self.processes.is_empty(), "{} is on", name(self.n));
        // What lay in memory is gone.
        for memory in ["tmp", "run"] {
            let _absent = fs::remove_dir_all(self.path(memory));
        }
        fs::create_dir_all(self.path("tmp")).unwrap();
        fs::create_dir_all(self.path("run/muster/bin")).unwrap();
        symlink(&self.agent, self.path("run/muster/bin/muster-agent")).unwrap();
        self.boots += 1;
        fs::write(self.path(BOOT), serde_json::to_vec(&self.boot()).unwrap()).unwrap();
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut supervisor = self.inside(&self.supervisor);
        supervisor.arg(Path::new(UNITS).join(self.unit())).arg("--root").arg(&self.root).arg("--inactive");
        supervisor.arg("--control").arg(self.control()).arg("--log").arg(self.path("k3s.log"));
        let mut agent = self.inside(&self.agent);
        agent.arg("node");
        for mut command in [supervisor, agent] {
            let (out, err) = (log.try_clone().unwrap(), log.try_clone().unwrap());
            self.processes.push(command.stdout(out).stderr(err).spawn().unwrap());
        }
    }

    fn boot(&self) -> Boot {
        Boot {
            boot: InstanceId([self.n, self.boots, 0, 0, 0, 0, 0, 1]),
            stages: Vec::new(),
            interface: Some("eth0".into()),
            mac: Some(mac(self.n)),
            address: Some(Cidr { address: address(self.n), prefix: 24 }),
            gateway: Some(PROVISIONER),
            dns: Vec::new(),
            provisioner: Some(SocketAddr::from(API)),
            http_port: 80,
            detected: Class::Generic,
            order: Some(self.order),
            slot: None,
            kernel_release: "none".into(),
        }
    }

    /// Everything that runs on it ends at once.
    pub(crate) fn power_off(&mut self) {
        self.netns.kill_all().unwrap();
        for mut process in self.processes.drain(..) {
            process.wait().unwrap();
        }
    }

    fn control(&self) -> PathBuf {
        self.path("control").join(format!("{}.sock", self.unit()))
    }

    /// `k3s kubectl` on this server, as a person there; its output, if it did well.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Option<String> {
        let k3s = self.path("var/lib/muster/k3s/current/k3s");
        let output = self.inside(&k3s).arg("kubectl").args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As a person who starts the unit by hand.
    pub(crate) fn start_by_hand(&self) {
        let asked =
            self.inside(&self.supervisor).arg("ctl").arg(self.control()).arg("start").output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
    }

    /// How often k3s was executed.
    pub(crate) fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }

    /// How often the log of k3s's unit says this.
    pub(crate) fn said(&self, what: &str) -> usize {
        fs::read_to_string(self.path("k3s.log")).unwrap_or_default().matches(what).count()
    }

    /// The agent's log says this; a node that is ready has no reasons in its status.
    pub(crate) fn warned(&self, what: &str) -> bool {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default().contains(what)
    }

    pub(crate) fn kept(&self) -> Kept {
        Kept::load(&self.root()).unwrap()
    }

    /// A trap of the stand-in, on or off.
    pub(crate) fn trap(&self, fault: Option<&str>) {
        let file = self.path("var/lib/rancher/k3s/standin-faults");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, fault.unwrap_or_default()).unwrap();
    }

    /// Takes something out of the disk's sight, or puts it back.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// What a person would look at when a test fails.
    pub(crate) fn logs(&self) -> String {
        let tail = |file: &str| {
            let text = fs::read_to_string(self.path(file)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {} {file}\n{}\n", name(self.n), lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        tail("agent.log") + &tail("k3s.log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// A blank machine with one disk, as its boot image would find it.
fn hello(n: u8) -> Hello {
    let disk = Disk {
        name: "nvme0n1".into(),
        id: DiskId { wwn: None, serial: Some(format!("DISK-{n}")), size_bytes: 64 << 30 },
        model: None,
        bus: Bus::Nvme,
        removable: false,
        rotational: false,
        logical_block_bytes: 512,
        contents: Some(Contents { empty: true, evidence: Digest([n; 32]), found: Vec::new(), busy: false }),
    };
    let nic = Nic { name: "eth0".into(), mac: mac(n), driver: None, carrier: true, speed_mbps: None };
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
    let (inventory, mac) = (wire::encode(&inventory), mac(n));
    Hello { inventory, marker: None, seen: Seen::default(), uptime_ms: 5_000, mac }
}
