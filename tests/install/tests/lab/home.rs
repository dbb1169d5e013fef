//! One installation of muster: its state with keys and small images, and the service, which can be killed.

use super::lan::{Host, Lan, MAC};
use muster::store::rows::{ARTIFACTS, ArtifactKind, EVENTS, EventRow, ORDERS, OrderRow};
use muster::store::state_dir::StateDir;
use muster::store::{Read, Store, keys};
use muster_protocol::ids::Digest;
use muster_protocol::signed::{OnlineKey, Trust};
use netns::must;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A service that is recovering its store on a busy machine is slow to start.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Home {
    root: PathBuf,
    service: Mutex<Option<Child>>,
}

/// `muster`, beside this test's own programs.
pub(crate) fn muster() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_install-machine")).with_file_name("muster");
    assert!(path.exists(), "there is no `{}`\nhint: cargo build -p muster", path.display());
    path
}

impl Home {
    /// Founds a cluster and registers images for this machine's architecture and kernel.
    pub(crate) fn found(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        let config = format!(
            "[cluster]\nname = \"lab\"\ntopology = \"single\"\n\
             [provisioner]\ninterface = \"eth0\"\nclock = \"local\"\n\
             [k3s]\nversion = \"v1.36.3+k3s1\"\n\
             [[machine]]\nname = \"one\"\nclass = \"mini-pc\"\nrole = \"server\"\nmac = [\"{MAC}\"]\n\
             address = \"10.77.0.11/24\"\ninstall = \"auto\"\n"
        );
        std::fs::write(root.join("cluster.toml"), config).unwrap();
        let home = Self { root: root.into(), service: Mutex::new(None) };
        must(home.with(&mut Command::new(muster())).arg("init"));
        home
    }

    /// Registers what `build` names.
    pub(crate) fn build(&self, build: &[&str]) {
        must(self.with(&mut Command::new(muster())).args(["image", "build"]).args(build));
    }

    /// Everything, as somebody would copy it to another box.
    pub(crate) fn copy(&self, root: &Path) -> Self {
        must(Command::new("cp").arg("-a").arg(&self.root).arg(root));
        Self { root: root.into(), service: Mutex::new(None) }
    }

    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("MUSTER_STATE", self.root.join("state"))
            .env("MUSTER_CONFIG", self.root.join("cluster.toml"))
            .env("XDG_STATE_HOME", self.root.join("xdg"))
            .env("MUSTER_SERVER", "127.0.0.1:7480")
            .stdin(Stdio::null())
    }

    pub(crate) fn open_admission(&self, lan: &Lan) {
        let mut command = lan.command(Host::Provisioner, muster());
        must(self.with(&mut command).args(["admission", "open", "--for", "30m"]));
    }

    /// Returns when it says that it is ready. `ip netns exec` becomes it, so its process is the child.
    pub(crate) fn start(&self, lan: &Lan) {
        let at = self.root.join("notify");
        let _old = std::fs::remove_file(&at);
        let socket = UnixDatagram::bind(&at).unwrap();
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(START)).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = lan.command(Host::Provisioner, muster());
        let command = self.with(&mut command).arg("serve").env("NOTIFY_SOCKET", &at);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.service.lock().unwrap() = Some(child);
        let mut said = [0; 512];
        let heard = socket.recv(&mut said).map(|length| said[..length].starts_with(b"READY=1"));
        assert!(matches!(heard, Ok(true)), "{heard:?}: {}", self.said());
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.service.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn state(&self) -> StateDir {
        StateDir::new(self.root.join("state"))
    }

    pub(crate) fn trust_file(&self) -> PathBuf {
        self.state().trust()
    }

    pub(crate) fn trust(&self) -> Trust {
        keys::read_trust(&self.trust_file()).unwrap()
    }

    pub(crate) fn online(&self) -> OnlineKey {
        keys::read_online(&self.state(), &self.trust()).unwrap()
    }

    /// What is fetched in an install. The service must not run.
    pub(crate) fn artifacts(&self) -> BTreeMap<Digest, &'static str> {
        let rows = self.store().view().unwrap().all(ARTIFACTS, "").unwrap();
        let mut names = BTreeMap::new();
        for (_, row) in rows {
            for file in row.files {
                let name = match (row.kind, file.path.as_str()) {
                    (ArtifactKind::NodeImage, "index") => "index",
                    (ArtifactKind::NodeImage, _) => "blob",
                    (ArtifactKind::Uki, _) => "uki",
                    (ArtifactKind::Loader, _) => "loader",
                    (ArtifactKind::Kata | ArtifactKind::K3s, _) => continue,
                };
                names.insert(file.digest, name);
            }
        }
        names
    }

    /// Every order there ever was. The service must not run.
    pub(crate) fn orders(&self) -> Vec<OrderRow> {
        let rows = self.store().view().unwrap().all(ORDERS, "").unwrap();
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The service must not run.
    pub(crate) fn events(&self) -> Vec<String> {
        let rows: Vec<(String, EventRow)> = self.store().view().unwrap().all(EVENTS, "").unwrap();
        rows.into_iter().map(|(_, row)| row.what).collect()
    }

    fn store(&self) -> Store {
        Store::open(&self.state().store()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill();
    }
}
