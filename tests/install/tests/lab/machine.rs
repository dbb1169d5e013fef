//! A machine made of a folder: firmware variables, ports and one disk as files, and programs for the installer.

use super::lan::{Host, Lan, MAC};
use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::disk::Disk;
use muster_agent::install::marker::read_marker;
use muster_agent::install::plan::{Plan, Sizes, plan};
use muster_protocol::ids::{ClusterId, Number};
use muster_protocol::keys::SecretKey;
use muster_protocol::marker::Marker;
use netns::must;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

pub(crate) const DISK_BYTES: u64 = 24 << 30;
const DISK: &str = "dev/nvme0n1";
const EFIVARS: &str = "sys/firmware/efi/efivars";
/// Where the agent keeps its key until a disk is ours.
const KEY: &str = "MusterNodeKey-5b0f6a2e-9a53-4c1f-8e21-6d7573746572";

pub(crate) struct Machine {
    root: PathBuf,
}

impl Machine {
    pub(crate) fn new(root: &Path, trust: &Path) -> Self {
        let machine = Self { root: root.into() };
        for folder in ["proc", "run", "held", "tmp", "dev", "etc/muster"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy(trust, root.join("etc/muster/trust")).unwrap();
        for (path, text) in [
            ("sys/block/nvme0n1/size", (DISK_BYTES / 512).to_string().as_str()),
            ("sys/block/nvme0n1/dev", "259:4242"),
            ("sys/block/nvme0n1/removable", "0"),
            ("sys/block/nvme0n1/queue/rotational", "0"),
            ("sys/block/nvme0n1/queue/logical_block_size", "512"),
            ("sys/block/nvme0n1/device/serial", "S4EWNX0R123456"),
            ("sys/block/nvme0n1/wwid", "eui.0025385711b2c3d4"),
            ("sys/class/net/eth0/type", "1"),
            ("sys/class/net/eth0/address", MAC),
            ("sys/class/net/eth0/carrier", "1"),
            ("sys/class/net/eth0/device/vendor", "0x10ec"),
            ("sys/class/dmi/id/sys_vendor", "LENOVO"),
            ("sys/class/dmi/id/product_name", "11JN"),
            ("sys/class/dmi/id/product_serial", "PF0LAB01"),
        ] {
            machine.put(path, text.as_bytes());
        }
        // One entry that starts from the network, as the firmware of a new machine has.
        machine
            .put(&format!("{EFIVARS}/BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"), &[7, 0, 0, 0, 1, 0]);
        File::create(root.join(DISK)).unwrap().set_len(DISK_BYTES).unwrap();
        machine.node("null", 'c', (1, 3));
        machine.program("mke2fs");
        machine
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn node(&self, name: &str, kind: char, (major, minor): (u64, u64)) {
        let path = self.root.join("dev").join(name);
        must(Command::new("mknod").arg(path).args([kind.to_string(), major.to_string(), minor.to_string()]));
    }

    /// A program of this computer with the libraries that it wants.
    fn program(&self, name: &str) {
        let from = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
        let from = from.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("there is no `{name}`"));
        self.put(&format!("bin/{name}"), b"");
        fs::copy(from, self.root.join("bin").join(name)).unwrap();
        let wants = must(Command::new("ldd").arg(from));
        for library in wants.split_whitespace().filter(|word| word.starts_with('/')) {
            self.put(library.trim_start_matches('/'), b"");
            fs::copy(library, self.root.join(library.trim_start_matches('/'))).unwrap();
        }
    }

    /// Switches it on; what it came to is sent, once, when this boot has ended.
    pub(crate) fn power_on<E: Send + 'static>(
        &self,
        lan: &Lan,
        ended: Sender<E>,
        event: impl FnOnce(Boot) -> E + Send + 'static,
    ) -> Running {
        let log = File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        let mut command = lan.command(Host::Machine, env!("CARGO_BIN_EXE_install-machine"));
        let command = command.arg(&self.root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut said = String::new();
            let read = stdout.read_to_string(&mut said);
            // Nobody listens any more when the test has given up.
            let _unheard = ended.send(event(Boot::parse(&said, read.is_ok())));
        });
        Running(child)
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// `None` before it has made one.
    pub(crate) fn key(&self) -> Option<SecretKey> {
        let variable = fs::read(self.root.join(EFIVARS).join(KEY)).ok()?;
        Some(SecretKey::from_seed(variable.get(4..)?.try_into().ok()?))
    }

    pub(crate) fn marker(&self) -> Option<Marker> {
        read_marker(&mut self.disk()).unwrap()
    }

    /// Bytes of the disk, past every cache.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.disk().read_at(offset, &mut bytes).unwrap();
        bytes
    }

    fn disk(&self) -> BlockDevice {
        BlockDevice::read_only(&self.root.join(DISK), 512).unwrap()
    }

    pub(crate) fn disk_path(&self) -> PathBuf {
        self.root.join(DISK)
    }

    pub(crate) fn plan(&self, cluster: ClusterId, order: Number) -> Plan {
        plan(DISK_BYTES, 512, &Sizes::DESIGN, cluster, order).unwrap()
    }

    /// What the kernel does when it reads a partition table: here for the one that PID 1 mounts.
    pub(crate) fn find_data_partition(&self, plan: &Plan) -> Loop {
        let bytes = &plan.data.bytes;
        let (start, length) = (bytes.start.to_string(), (bytes.end - bytes.start).to_string());
        let found = must(
            Command::new("losetup")
                .args(["--find", "--show", "--offset", &start, "--sizelimit", &length])
                .arg(self.root.join(DISK)),
        );
        let device = Loop(found.trim().into());
        let number = fs::metadata(&device.0).unwrap().rdev();
        self.node("nvme0n1p4", 'b', (nix::sys::stat::major(number), nix::sys::stat::minor(number)));
        device
    }
}

/// What one power-on came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// `restart`, or `boot` and its slots; empty when the process died.
    pub(crate) end: String,
    pub(crate) wrote: u64,
}

impl Boot {
    fn parse(said: &str, whole: bool) -> Self {
        let mut lines = said.lines().filter(|_| whole);
        let end = lines.next().unwrap_or_default().to_owned();
        let wrote = lines.next().and_then(|line| line.strip_prefix("wrote ")?.parse().ok());
        Self { end, wrote: wrote.unwrap_or(0) }
    }
}

/// Its process; ended with this.
pub(crate) struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A loop device, detached with this.
pub(crate) struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(detached.unwrap().success());
        }
    }
}
