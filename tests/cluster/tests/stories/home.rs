//! The provisioner: the real `muster`, with its state, its configuration and its operator.

use crate::lan::{PROVISIONER, VIP, address};
use crate::parts::Parts;
use muster::store::keys::read_key;
use muster::store::rows::{ArtifactKind, ArtifactRow};
use muster::store::state_dir::StateDir;
use muster::store::{Store, artifacts};
use muster_protocol::ids::{Arch, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::Trust;
use muster_protocol::wire;
use netns::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub(crate) const CLUSTER: &str = "lab";
const K3S: &str = "v1.36.3+k3s1";

pub(crate) struct Home {
    root: PathBuf,
    muster: PathBuf,
    netns: Netns,
    running: Option<Child>,
}

impl Home {
    /// `muster init` in an empty folder.
    pub(crate) fn founded(root: PathBuf, parts: &Parts, netns: Netns, machines: u8) -> Self {
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("cluster.toml"), config(machines)).unwrap();
        let home = Self { root, muster: parts.muster.clone(), netns, running: None };
        home.must(&["init"]);
        home
    }

    /// Everything that a manifest names: the stand-in and etcd as k3s, an archive of Kata's layout; and three files in the
    /// place of images that nobody boots here.
    pub(crate) fn register(&self, parts: &Parts) {
        let (k3s, kata) = (self.root.join("k3s"), self.root.join("kata.tar.zst"));
        fs::create_dir_all(&k3s).unwrap();
        symlink(&parts.standin, k3s.join("k3s")).unwrap();
        symlink(&parts.etcd, k3s.join("etcd")).unwrap();
        fs::write(&kata, pack_kata(&self.root)).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        self.must(&["image", "build", "--k3s", &path(&k3s), "--stand-in", "k3s: stand-in"]);
        self.must(&["image", "build", "--kata", &path(&kata), "--stand-in", "kata: stand-in"]);
        let state = StateDir::new(self.state());
        let store = Store::open(&state.store()).unwrap();
        for (kind, file) in [
            (ArtifactKind::Uki, "boot.efi"),
            (ArtifactKind::Loader, "loader.efi"),
            (ArtifactKind::NodeImage, "index"),
        ] {
            let file = artifacts::put_bytes(&state.artifacts(), file.as_bytes(), file, 0o644).unwrap();
            let row = ArtifactRow {
                kind,
                arch: Arch::X86_64,
                version: "1".into(),
                files: vec![file],
                kernel_release: Some("none".into()),
                stand_in: None,
                registered_unix_ms: 1,
            };
            store.write(|tx| artifacts::register(tx, &state.artifacts(), &row)).unwrap();
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.state().join("store.redb")
    }

    pub(crate) fn trust(&self) -> Trust {
        wire::decode(&fs::read(self.state().join("trust")).unwrap()).unwrap()
    }

    pub(crate) fn operator(&self) -> SecretKey {
        read_key(&self.root.join("xdg/muster").join(CLUSTER).join("operator.key")).unwrap()
    }

    fn command(&self) -> Command {
        self.within(&self.muster)
    }

    fn within(&self, program: &Path) -> Command {
        let mut command = self.netns.command(program);
        command
            .stdin(Stdio::null())
            .env("MUSTER_STATE", self.state())
            .env("MUSTER_CONFIG", self.root.join("cluster.toml"))
            .env("XDG_STATE_HOME", self.root.join("xdg"))
            .env("MUSTER_SERVER", format!("{PROVISIONER}:7480"));
        command
    }

    /// One command of the operator.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    pub(crate) fn must(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "muster {}: {}{}", args.join(" "), text(&done.stderr), self.log());
        text(&done.stdout)
    }

    /// What a command that fails tells the operator. One that goes on instead (`serve`) is stopped after a minute.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let mut limited = self.within(Path::new("timeout"));
        let done = limited.arg("60").arg(&self.muster).args(args).output().unwrap();
        assert!(!done.status.success(), "muster {} went through: {}", args.join(" "), text(&done.stdout));
        text(&done.stderr)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.must(args)).unwrap()
    }

    /// `muster serve`, until it says that it is ready.
    pub(crate) fn serve(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let at = self.root.join("notify");
        let _old = fs::remove_file(&at);
        let socket = UnixDatagram::bind(&at).unwrap();
        fs::set_permissions(&at, PermissionsExt::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let log = File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        let out = log.try_clone().unwrap();
        let child = self.command().arg("serve").env("NOTIFY_SOCKET", &at).stdout(out).stderr(log).spawn();
        self.running = Some(child.unwrap());
        let mut buffer = [0; 512];
        let heard = socket.recv(&mut buffer).map(|length| text(&buffer[..length]));
        assert!(heard.as_ref().is_ok_and(|heard| heard.starts_with("READY=1")), "{heard:?}{}", self.log());
    }

    pub(crate) fn kill_9(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// As systemd stops it.
    pub(crate) fn stop(&mut self) {
        let mut child = self.running.take().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let ended = child.wait().unwrap();
        assert!(ended.success(), "{ended}{}", self.log());
    }

    /// A person moves the store away and puts a copy of another one in its place; a running provisioner keeps the file that it
    /// has open.
    pub(crate) fn swap_store(&self, copy: &Path, away: &Path) {
        fs::rename(self.store(), away).unwrap();
        fs::copy(copy, self.store()).unwrap();
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("\n--- muster\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// The cluster's events, oldest first.
    pub(crate) fn events(&self) -> Vec<String> {
        let told = self.json(&["cluster", "status", "-o", "json"]);
        let events = told["events"].as_array().unwrap();
        events.iter().map(|event| event["what"].as_str().unwrap().to_owned()).collect()
    }

    /// How many joins were granted, as far as this store knows.
    pub(crate) fn joins_granted(&self) -> usize {
        self.events().iter().filter(|event| event.contains(" may join (")).count()
    }

    /// Why this server waits, as the operator is told.
    pub(crate) fn reasons(&self, n: u8) -> String {
        let picture = self.json(&["status", "-o", "json"]);
        picture["machines"][usize::from(n) - 1]["reasons"].to_string()
    }

    /// A report with this member in its list has arrived, and the decision was taken with it.
    pub(crate) fn lists(&self, member: Option<u64>) -> bool {
        let picture = self.json(&["status", "-o", "json"]);
        let members = picture["etcd"]["members"].as_array().into_iter().flatten();
        let ids: Vec<&str> = members.filter_map(|member| member["id"].as_str()).collect();
        member.is_some_and(|id| ids.contains(&id.to_string().as_str()))
    }

    /// Why nothing is handed out.
    pub(crate) fn frozen(&self) -> Option<String> {
        self.json(&["cluster", "status", "-o", "json"])["cluster"]["frozen"].as_str().map(str::to_owned)
    }

    /// Who holds the lock.
    pub(crate) fn lock(&self) -> Option<String> {
        self.json(&["status", "-o", "json"])["cluster"]["lock"].as_str().map(str::to_owned)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill_9();
        }
    }
}

/// Three servers; the rest are workers.
pub(crate) fn role(n: u8) -> Role {
    if n <= 3 { Role::Server } else { Role::Worker }
}

fn config(machines: u8) -> String {
    let mut toml = format!(
        "[cluster]\nname = \"{CLUSTER}\"\n\
         [provisioner]\ninterface = \"br0\"\ndhcp = \"off\"\nclock = \"local\"\n\
         [k3s]\nversion = \"{K3S}\"\nregistration = \"vip:{VIP}\"\nextra = {{ disable = [\"traefik\"] }}\n\
         [kata]\nversion = \"4.1.0\"\nrequire = \"files\"\n"
    );
    for n in 1..=machines {
        writeln!(
            toml,
            "[[machine]]\nname = \"mini-pc-{n}\"\nclass = \"mini-pc\"\nrole = \"{}\"\nmac = [\"02:00:00:00:00:{n:02x}\"]\n\
             address = \"{}/24\"\ninstall = \"auto\"\nsandbox = true",
            role(n),
            address(n)
        )
        .unwrap();
    }
    toml
}

/// An archive of the real layout; the files say what they are.
fn pack_kata(dir: &Path) -> Vec<u8> {
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
    let tar = Command::new("tar").arg("-C").arg(&folder).args(["-c", "opt"]).output().unwrap();
    assert!(tar.status.success());
    ruzstd::encoding::compress_to_vec(tar.stdout.as_slice(), ruzstd::encoding::CompressionLevel::Fastest)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
