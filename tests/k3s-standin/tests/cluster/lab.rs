//! Servers in network namespaces on one bridge, each under lab-supervisor with k3s's own unit, driven by curl and kubectl.

use netns::{Netns, Switch};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// k3s's own unit; the binary is found under the node's root.
const UNIT: &str = "[Unit]\nDescription=Lightweight Kubernetes\n\n[Service]\nType=notify\nEnvironmentFile=-/etc/default/%N\nKillMode=process\nDelegate=yes\nUser=root\nLimitNOFILE=1048576\nTimeoutStartSec=0\nRestart=always\nRestartSec=5s\nExecStartPre=-/sbin/modprobe br_netfilter\nExecStart=/usr/local/bin/k3s ROLE\n";

pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    etcd: PathBuf,
    supervisors: Vec<Option<Child>>,
    nodes: Vec<Netns>,
    _switch: Switch,
}

/// A node by its number, from 1 on: address 10.77.0.1N, name mini-pc-N.
pub(crate) type Node = usize;

impl Lab {
    /// None, with the reason printed, where it cannot run.
    pub(crate) fn new(nodes: usize) -> Option<Self> {
        let Some(etcd) = find_etcd() else {
            eprintln!("skipped: no etcd: name one in K3S_STANDIN_ETCD");
            return None;
        };
        if !netns::able(&[]) {
            return None;
        }
        let switch = Switch::new().unwrap();
        let labs = std::env::temp_dir().join("standin-lab");
        netns::remove_folders(&labs);
        let dir = labs.join(switch.name());
        let plugged = (1..=nodes).map(|n| {
            let node = switch.host(&format!("n{n}")).unwrap();
            switch.plug(&node, &format!("v{n}"), None).unwrap();
            node.ip(&["addr", "add", &format!("{}/24", address(n)), "dev", "eth0"]).unwrap();
            node.ip(&["route", "add", "default", "via", "10.77.0.1"]).unwrap();
            node
        });
        let supervisors = (0..=nodes).map(|_| None).collect();
        let lab = Self { dir, etcd, supervisors, nodes: plugged.collect(), _switch: switch };
        for n in 1..=nodes {
            let bin = lab.root(n).join("usr/local/bin");
            std::fs::create_dir_all(&bin).unwrap();
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_k3s-standin"), bin.join("k3s")).unwrap();
        }
        Some(lab)
    }

    fn netns(&self, n: Node) -> &Netns {
        &self.nodes[n - 1]
    }

    pub(crate) fn has_etcdutl(&self) -> bool {
        self.etcd.with_file_name("etcdutl").is_file()
    }

    pub(crate) fn root(&self, n: Node) -> PathBuf {
        self.dir.join(format!("root{n}"))
    }

    pub(crate) fn data(&self, n: Node) -> PathBuf {
        self.root(n).join("var/lib/rancher/k3s")
    }

    pub(crate) fn config(&self, n: Node, text: &str) {
        let file = self.root(n).join("etc/rancher/k3s/config.yaml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let common = format!("node-ip: {}\nnode-name: {}\n", address(n), name(n));
        std::fs::write(file, format!("{common}{text}")).unwrap();
    }

    /// The token file of a server, as a join needs it.
    pub(crate) fn token(&self, n: Node, file: &str) -> String {
        std::fs::read_to_string(self.data(n).join("server").join(file)).unwrap().trim().to_owned()
    }

    fn inside(&self, n: Node, program: impl AsRef<Path>) -> Command {
        let mut command = self.netns(n).command(program.as_ref());
        command
            .env("TMPDIR", &self.dir)
            .env("K3S_STANDIN_ROOT", self.root(n))
            .env("K3S_STANDIN_ETCD", &self.etcd)
            .env("K3S_STANDIN_EXEC_LOG", self.dir.join(format!("starts{n}")));
        command
    }

    pub(crate) fn start(&mut self, n: Node, role: &str) {
        let unit = self.root(n).join("k3s.service");
        std::fs::write(&unit, UNIT.replace("ROLE", role)).unwrap();
        let mut supervisor = self.inside(n, env!("CARGO_BIN_EXE_lab-supervisor"));
        supervisor.arg(unit).arg("--root").arg(self.root(n)).arg("--control").arg(self.socket(n));
        supervisor.arg("--log").arg(self.log_file(n)).stdin(Stdio::null());
        self.supervisors[n] = Some(supervisor.spawn().unwrap());
    }

    fn socket(&self, n: Node) -> PathBuf {
        self.dir.join(format!("control{n}"))
    }

    fn log_file(&self, n: Node) -> PathBuf {
        self.dir.join(format!("log{n}"))
    }

    pub(crate) fn log(&self, n: Node) -> String {
        std::fs::read_to_string(self.log_file(n)).unwrap_or_default()
    }

    /// Forget what was logged so far.
    pub(crate) fn clear_log(&self, n: Node) {
        std::fs::OpenOptions::new().write(true).open(self.log_file(n)).unwrap().set_len(0).unwrap();
    }

    pub(crate) fn ctl(&self, n: Node, verb: &str) -> Value {
        let socket = self.socket(n);
        let output = Command::new(env!("CARGO_BIN_EXE_lab-supervisor"))
            .arg("ctl")
            .arg(socket)
            .arg(verb)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Power off: supervisor and all that it started, at once.
    pub(crate) fn power_off(&mut self, n: Node) {
        if let Some(mut supervisor) = self.supervisors[n].take() {
            supervisor.kill().unwrap();
            supervisor.wait().unwrap();
        }
        wait_for("every process of the node to end", 10, || self.netns(n).pids().unwrap().is_empty());
    }

    pub(crate) fn wipe(&self, n: Node) {
        std::fs::remove_dir_all(self.data(n).join("server")).unwrap();
    }

    /// (HTTP status, body); status 0 when nothing answers.
    pub(crate) fn curl(&self, n: Node, args: &[&str]) -> (u16, String) {
        let output = self
            .inside(n, "curl")
            .args(["-sk", "-m", "12", "-w", "\n%{http_code}"])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// This node's own /db/info: names with `[learner]`, or status and message.
    pub(crate) fn db_info(&self, n: Node) -> Result<Vec<String>, (u16, String)> {
        let (status, body) = self.curl(n, &["https://127.0.0.1:6443/db/info"]);
        let json: Value = serde_json::from_str(&body).unwrap_or_default();
        if status != 200 {
            return Err((status, json["message"].as_str().unwrap_or_default().to_owned()));
        }
        let shown = |m: &Value| {
            let name = m["name"].as_str().unwrap_or("unstarted");
            let learner = if m["isLearner"] == true { "[learner]" } else { "" };
            format!("{}{learner}", k3s_model::names::node_of(name))
        };
        let mut names: Vec<String> = json["members"].as_array().unwrap().iter().map(shown).collect();
        names.sort();
        Ok(names)
    }

    /// The gateway on 2382 with k3s's own client certificate.
    pub(crate) fn gateway(&self, n: Node, path: &str, body: &str) -> (u16, Value) {
        let tls = self.data(n).join("server/tls/etcd");
        let file = |name: &str| tls.join(name).display().to_string();
        let (crt, key, url) =
            (file("client.crt"), file("client.key"), format!("https://127.0.0.1:2382{path}"));
        let (status, body) = self.curl(n, &["--cert", &crt, "--key", &key, "-d", body, &url]);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// (CA hash, etcd cluster id): who a server belongs to.
    pub(crate) fn identity(&self, n: Node) -> (String, String) {
        let (_, pem) = self.curl(n, &["https://127.0.0.1:6443/cacerts"]);
        let (_, status) = self.gateway(n, "/v3/maintenance/status", "{}");
        let cluster = status["header"]["cluster_id"].as_str().unwrap_or_default().to_owned();
        (k3s_standin::base::pki::sha256_hex(pem.as_bytes()), cluster)
    }

    pub(crate) fn kubectl(&self, n: Node, args: &str) -> Output {
        let mut command = self.inside(n, env!("CARGO_BIN_EXE_k3s-standin"));
        command.arg("kubectl").args(args.split_whitespace()).output().unwrap()
    }

    /// stdout of a kubectl call that must succeed.
    pub(crate) fn said(&self, n: Node, args: &str) -> String {
        let output = self.kubectl(n, args);
        assert!(output.status.success(), "kubectl {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn k3s(&self, n: Node, args: &str) -> Output {
        let mut command = self.inside(n, env!("CARGO_BIN_EXE_k3s-standin"));
        command.args(args.split_whitespace()).output().unwrap()
    }

    pub(crate) fn starts(&self, n: Node) -> usize {
        std::fs::read_to_string(self.dir.join(format!("starts{n}"))).map_or(0, |t| t.lines().count())
    }

    pub(crate) fn wait_log(&self, n: Node, text: &str, seconds: u64) {
        wait_for_or(
            &format!("node {n} to log {text:?}"),
            seconds,
            || self.log(n).contains(text),
            || self.log(n),
        );
    }

    /// The service manager was told.
    pub(crate) fn wait_ready(&self, n: Node, seconds: u64) {
        let ready = || self.ctl(n, "status")["active"] == "active";
        wait_for_or(&format!("node {n} to be ready"), seconds, ready, || self.log(n));
    }

    pub(crate) fn wait_members(&self, n: Node, want: &[&str], seconds: u64) {
        let same = || self.db_info(n).is_ok_and(|have| have == want);
        wait_for_or(&format!("node {n} to list {want:?}"), seconds, same, || {
            format!("{:?}", self.db_info(n))
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for supervisor in self.supervisors.iter_mut().flatten() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        if std::thread::panicking() {
            for n in 1..self.supervisors.len() {
                let log = self.log(n);
                let tail: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!("--- node {n}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        for node in &self.nodes {
            let _lives = node.kill_all();
        }
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn address(n: Node) -> String {
    format!("10.77.0.1{n}")
}

pub(crate) fn name(n: Node) -> String {
    format!("mini-pc-{n}")
}

fn find_etcd() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("K3S_STANDIN_ETCD") {
        return Some(named.into());
    }
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let cache = std::env::var_os("MUSTER_CACHE").map_or_else(|| home.join(".cache/muster"), PathBuf::from);
    let versions = std::fs::read_dir(cache.join("k3s")).into_iter().flatten().flatten();
    let beside = versions.map(|v| v.path().join("etcd"));
    let installed = ["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from);
    beside.chain(installed).find(|p| k3s_standin::etcd::locate::check(p).is_ok())
}

pub(crate) fn wait_for(what: &str, seconds: u64, done: impl Fn() -> bool) {
    wait_for_or(what, seconds, done, String::new);
}

/// Ask until it is so; the limit is for machines that are very busy.
#[expect(clippy::disallowed_methods, reason = "polls another process, which has no event to wait for")]
fn wait_for_or(what: &str, seconds: u64, done: impl Fn() -> bool, else_show: impl Fn() -> String) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < until, "waited {seconds} s for {what}\n{}", else_show());
        std::thread::sleep(Duration::from_millis(100));
    }
}
