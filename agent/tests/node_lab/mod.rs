//! Nodes in network namespaces on one bridge: the real agent, k3s's stand-in under lab-supervisor with the unit files as
//! shipped, and a small provisioner made for this test.

pub(crate) mod provisioner;

use muster_protocol::class::Class;
use muster_protocol::ids::{Cidr, ClusterId, Digest, NodeName, Number, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::manifest::{K3s, Kata, KataRequire, Manifest, Network, PlacedFile, Registration};
use muster_protocol::roster::{Member, Operator, Roster};
use muster_protocol::signed::{Delegation, OnlineKey, Signed, Statement, Trust};
use muster_protocol::wire;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/node/root/etc/systemd/system");

/// Where the parts from outside this crate lie.
pub(crate) struct Parts {
    standin: PathBuf,
    supervisor: PathBuf,
    etcd: PathBuf,
}

impl Parts {
    /// None, with the reason printed, where this test cannot run.
    pub(crate) fn found() -> Option<Self> {
        let beside = Path::new(env!("CARGO_BIN_EXE_muster-agent")).parent()?;
        let folder = std::env::var_os("K3S_STANDIN_BIN").map_or_else(|| beside.to_owned(), PathBuf::from);
        let (standin, supervisor) = (folder.join("k3s-standin"), folder.join("lab-supervisor"));
        if !standin.exists() || !supervisor.exists() {
            return skip("no k3s-standin and lab-supervisor beside the agent (cargo build -p k3s-standin)");
        }
        if !nix::unistd::geteuid().is_root() {
            return skip("not root");
        }
        match find_etcd() {
            Some(etcd) => Some(Self { standin, supervisor, etcd }),
            None => skip("no etcd: name one in K3S_STANDIN_ETCD"),
        }
    }
}

fn skip<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

fn find_etcd() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("K3S_STANDIN_ETCD") {
        return Some(named.into());
    }
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let cache = std::env::var_os("MUSTER_CACHE").map_or_else(|| home.join(".cache/muster"), PathBuf::from);
    let versions = fs::read_dir(cache.join("k3s")).into_iter().flatten().flatten();
    let beside = versions.map(|version| version.path().join("etcd"));
    beside.chain(["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from)).find(|path| path.exists())
}

pub(crate) fn name(n: u8) -> NodeName {
    format!("mini-pc-{n}").parse().unwrap()
}

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

pub(crate) fn operator() -> SecretKey {
    SecretKey::from_seed([50; 32])
}

pub(crate) fn recovery() -> SecretKey {
    SecretKey::from_seed([51; 32])
}

pub(crate) fn number(n: u64) -> Number {
    Number { delegation: 1, generation: 0, n }
}

pub(crate) fn trust() -> Trust {
    let root = SecretKey::from_seed([100; 32]).public().verify;
    Trust { cluster: CLUSTER, cluster_name: "lab".into(), root, build_epoch: 1_700_000_000 }
}

pub(crate) fn online() -> OnlineKey {
    let secret = SecretKey::from_seed([101; 32]);
    let delegation = Delegation { number: 1, online: secret.public().verify };
    let delegation = Signed::by_key(CLUSTER, &SecretKey::from_seed([100; 32]), &delegation);
    OnlineKey { secret, delegation, number: 1 }
}

pub(crate) fn sign<T: Statement>(value: &T) -> Signed<T> {
    Signed::by_online(CLUSTER, &online(), value)
}

fn roster(nodes: u8) -> Roster {
    let member = |n| Member { name: name(n), key: key(n).public(), role: role(n), address: Some(address(n)) };
    Roster {
        version: number(20),
        operators: vec![Operator { name: "ann".into(), key: operator().public() }],
        nodes: (1..=nodes).map(member).collect(),
        recovery: recovery().public(),
    }
}

/// Three servers, the rest are workers.
pub(crate) fn role(n: u8) -> Role {
    if n <= 3 { Role::Server } else { Role::Worker }
}

/// Namespaces, folders and processes; everything ends with it.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    parts: Parts,
    nodes: u8,
    processes: Vec<(u8, Child)>,
    /// One lab at a time: namespaces have names.
    _alone: MutexGuard<'static, ()>,
    /// What the provisioner serves.
    pub(crate) artifacts: Vec<Vec<u8>>,
}

impl Lab {
    pub(crate) fn new(nodes: u8) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let parts = Parts::found()?;
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join("muster-node-lab");
        let mut lab = Self { dir, parts, nodes, processes: Vec::new(), _alone: alone, artifacts: Vec::new() };
        lab.clean();
        fs::create_dir_all(&lab.dir).unwrap();
        lab.artifacts =
            vec![fs::read(&lab.parts.standin).unwrap(), fs::read(&lab.parts.etcd).unwrap(), kata(&lab.dir)];
        ip(&["netns", "add", HUB]);
        ip(&["-n", HUB, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", HUB, "addr", "add", "10.77.0.1/24", "brd", "+", "dev", "br0"]);
        ip(&["-n", HUB, "link", "set", "br0", "up"]);
        ip(&["-n", HUB, "link", "set", "lo", "up"]);
        for n in 1..=nodes {
            let ns = ns(n);
            ip(&["netns", "add", &ns]);
            let port = format!("port{n}");
            ip(&["-n", &ns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", HUB]);
            ip(&["-n", HUB, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &ns, "addr", "add", &format!("{}/24", address(n)), "brd", "+", "dev", "eth0"]);
            ip(&["-n", &ns, "link", "set", "eth0", "up"]);
            ip(&["-n", &ns, "link", "set", "lo", "up"]);
            ip(&["-n", &ns, "route", "add", "default", "via", "10.77.0.1"]);
            lab.seed(n);
        }
        Some(lab)
    }

    pub(crate) fn root(&self, n: u8) -> PathBuf {
        self.dir.join(format!("root{n}"))
    }

    fn manifest(&self, n: u8) -> Manifest {
        let file = |path: &str, bytes: &[u8]| PlacedFile {
            path: path.into(),
            mode: 0o755,
            digest: Digest::of(bytes),
            bytes: bytes.len() as u64,
        };
        let [standin, etcd, kata] = self.artifacts.as_slice() else { panic!("three artifacts") };
        Manifest {
            number: number(10),
            node: name(n),
            key: key(n).public().fingerprint(),
            class: Class::MiniPc,
            role: role(n),
            cluster_name: "lab".into(),
            network: Network {
                macs: vec![],
                address: Some(Cidr { address: address(n), prefix: 24 }),
                gateway: None,
                dns: vec![],
                ntp: vec![],
            },
            k3s: K3s {
                version: "v1.36.3+k3s1".into(),
                files: vec![file("k3s", standin), file("etcd", etcd)],
                servers: (1..=3).map(|n| (name(n), address(n))).collect(),
                // Namespaces share the host's /etc/hosts, so workers use an address.
                registration: Registration::Vip(address(1)),
                shared: vec![("disable".into(), vec!["traefik".into()])],
                stand_in: Some("k3s: stand-in".into()),
            },
            kata: Some(Kata {
                version: "4.1.0".into(),
                archive: Digest::of(kata),
                archive_bytes: kata.len() as u64,
                require: KataRequire::Files,
                stand_in: Some("kata: stand-in".into()),
            }),
            labels: vec![("muster.dev/class".into(), "mini-pc".into())],
            taints: vec![],
            authorized_keys: vec![],
            expires_at: u64::MAX,
        }
    }

    /// The disk as the installer leaves it, and what the node image has.
    fn seed(&self, n: u8) {
        let root = self.root(n);
        let put = |path: &str, bytes: &[u8]| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("var/lib/muster/trust", &wire::encode(&trust()));
        put("var/lib/muster/node.key", key(n).seed());
        put("var/lib/muster/manifest", &wire::encode(&sign(&self.manifest(n))));
        put("var/lib/muster/roster", &wire::encode(&sign(&roster(self.nodes))));
        for folder in ["usr/local/bin", "run/muster/bin", "control", "bin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink(root.join("var/lib/muster/k3s/current/k3s"), root.join("usr/local/bin/k3s")).unwrap();
        symlink(env!("CARGO_BIN_EXE_muster-agent"), root.join("run/muster/bin/muster-agent")).unwrap();
        symlink(&self.parts.supervisor, root.join("bin/systemctl")).unwrap();
    }

    fn inside(&self, n: u8, program: &Path) -> Command {
        let root = self.root(n);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &ns(n)]).arg(program);
        command
            .env("PATH", format!("{}:{path}", root.join("bin").display()))
            .env("MUSTER_ROOT", &root)
            // The supervisor names its notify socket by its process id, which a killed one may have had.
            .env("TMPDIR", root.join("tmp"))
            .env("LAB_SUPERVISOR_DIR", root.join("control"))
            .env("K3S_STANDIN_ROOT", &root)
            .env("K3S_STANDIN_ETCD", root.join("var/lib/muster/k3s/current/etcd"))
            .env("K3S_STANDIN_EXEC_LOG", root.join("starts"))
            .stdin(Stdio::null());
        command
    }

    fn unit(n: u8) -> &'static str {
        match role(n) {
            Role::Server => "k3s.service",
            Role::Worker => "k3s-agent.service",
        }
    }

    /// Supervisor and agent, as systemd would have them after a boot.
    pub(crate) fn power_on(&mut self, n: u8) {
        let root = self.root(n);
        // What lay in memory is gone.
        let _absent = fs::remove_dir_all(root.join("tmp"));
        fs::create_dir_all(root.join("tmp")).unwrap();
        for name in ["grant", "token", "agent-token", "stages", "status"] {
            let _absent = fs::remove_file(root.join("run/muster").join(name));
        }
        let mut supervisor = self.inside(n, &self.parts.supervisor);
        supervisor.arg(Path::new(UNITS).join(Self::unit(n))).arg("--root").arg(&root).arg("--inactive");
        supervisor.arg("--control").arg(root.join("control").join(format!("{}.sock", Self::unit(n))));
        supervisor.arg("--log").arg(root.join("k3s.log"));
        let log = fs::File::options().create(true).append(true).open(root.join("agent.log")).unwrap();
        let mut agent = self.inside(n, Path::new(env!("CARGO_BIN_EXE_muster-agent")));
        agent.args(["node", "--provisioner", "10.77.0.1:7480"]).stderr(log.try_clone().unwrap());
        supervisor.stdout(log.try_clone().unwrap()).stderr(log);
        self.processes.push((n, supervisor.spawn().unwrap()));
        self.processes.push((n, agent.spawn().unwrap()));
    }

    /// Everything that runs on the node ends at once.
    pub(crate) fn power_off(&mut self, n: u8) {
        let pids = Command::new("ip").args(["netns", "pids", &ns(n)]).output().unwrap();
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let (off, on): (Vec<_>, Vec<_>) = self.processes.drain(..).partition(|(of, _)| *of == n);
        self.processes = on;
        for (_, mut process) in off {
            process.wait().unwrap();
        }
    }

    /// How often k3s was executed.
    pub(crate) fn starts(&self, n: u8) -> usize {
        fs::read_to_string(self.root(n).join("starts")).unwrap_or_default().lines().count()
    }

    /// What a person would look at when a test fails.
    pub(crate) fn logs(&self) -> String {
        let tail = |n: u8, name: &str| {
            let text = fs::read_to_string(self.root(n).join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {n} {name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        (1..=self.nodes).map(|n| tail(n, "agent.log") + &tail(n, "k3s.log")).collect()
    }

    fn clean(&self) {
        for n in 1..=9 {
            let pids =
                Command::new("ip").args(["netns", "pids", &ns(n)]).stderr(Stdio::null()).output().unwrap();
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _absent = Command::new("ip").args(["netns", "del", &ns(n)]).stderr(Stdio::null()).status();
        }
        let _absent = Command::new("ip").args(["netns", "del", HUB]).stderr(Stdio::null()).status();
        let _absent = fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for n in 1..=self.nodes {
            self.power_off(n);
        }
        self.clean();
    }
}

pub(crate) const HUB: &str = "munode0";

fn ns(n: u8) -> String {
    format!("munode{n}")
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// Runs in the hub's network namespace, on a thread of its own.
pub(crate) fn in_hub<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    in_namespace(HUB.into(), work)
}

/// The same on a node.
pub(crate) fn in_node<T: Send + 'static>(n: u8, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    in_namespace(ns(n), work)
}

fn in_namespace<T: Send + 'static>(
    namespace: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let hub = fs::File::open(format!("/var/run/netns/{namespace}")).unwrap();
        nix::sched::setns(hub, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// An archive of the real layout; the files say what they are.
fn kata(dir: &Path) -> Vec<u8> {
    let folder = dir.join("kata");
    for (path, text) in [
        ("opt/kata/runtime-rs/bin/containerd-shim-kata-v2", "#!/bin/sh\necho stand-in\n"),
        (
            "opt/kata/share/defaults/kata-containers/runtime-rs/configuration-qemu-runtime-rs.toml",
            "# stand-in\n",
        ),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let tar = Command::new("tar").args(["-C", folder.to_str().unwrap(), "-c", "opt"]).output().unwrap();
    assert!(tar.status.success());
    ruzstd::encoding::compress_to_vec(tar.stdout.as_slice(), ruzstd::encoding::CompressionLevel::Fastest)
}
