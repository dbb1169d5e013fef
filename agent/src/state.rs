//! What a node keeps on its disk: written whole or not at all, read with an answer for every bad byte.
//!
//! A file is written beside its name, flushed, renamed and the directory flushed, so a power cut leaves the old one or
//! the new one. Everything takes the root of the file system as an argument; absolute paths are looked up below it.

use crate::durable::{sync_parent, write_whole};
use muster_protocol::class::Class;
use muster_protocol::hello::Seen;
use muster_protocol::ids::{Cidr, Digest, InstanceId, Mac, Number};
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::manifest::Manifest;
use muster_protocol::roster::Roster;
use muster_protocol::signed::{Accepted, By, Listener, Refused, Signed, Statement, Trust, Verified};
use muster_protocol::status::Stage;
use muster_protocol::wire::{self, Undecodable, Versioned};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The node's own folder on the data partition.
pub const HOME: &str = "/var/lib/muster";
pub const KEY: &str = "/var/lib/muster/node.key";
pub const TRUST: &str = "/var/lib/muster/trust";
pub const MANIFEST: &str = "/var/lib/muster/manifest";
pub const ROSTER: &str = "/var/lib/muster/roster";
pub const SEEN: &str = "/var/lib/muster/seen";
/// What PID 1 hands over: [`Boot`] as JSON.
pub const BOOT: &str = "/run/muster/boot";

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is damaged\nhint: {hint}", path.display())]
    Damaged { path: PathBuf, hint: &'static str, source: Undecodable },
    #[error("{} is not believed", path.display())]
    Refused { path: PathBuf, source: Refused },
    #[error("{} holds {have} bytes, a node key has 32\nhint: muster node reinstall NAME --new-key", path.display())]
    Key { path: PathBuf, have: usize },
    #[error("{} is not what PID 1 writes", path.display())]
    Boot { path: PathBuf, source: serde_json::Error },
    #[error("{} is missing\nhint: {hint}", path.display())]
    Missing { path: PathBuf, hint: &'static str },
}

const REINSTALL: &str = "muster node reinstall NAME writes it again; the node key survives";

/// The root of a file system: `/`, or a folder in tests and in the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Whether this is the running system itself, so that kernel modules and the like may be touched.
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// `absolute` below this root.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    pub fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).symlink_metadata().is_ok()
    }

    /// `None` when there is no such file.
    pub fn read(&self, absolute: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(absolute);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Whole or not at all, and on the disk when this returns.
    pub fn write(&self, absolute: &str, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        let path = self.path(absolute);
        write_whole(&path, bytes, mode).map_err(|source| StateError::Write { path, source })
    }

    /// As [`Self::write`], unless the file already says so: its inode stays. Returns whether it changed.
    pub fn write_if_other(&self, absolute: &str, bytes: &[u8], mode: u32) -> Result<bool, StateError> {
        let path = self.path(absolute);
        let same_mode = fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode);
        if same_mode && self.read(absolute)?.is_some_and(|found| found == bytes) {
            return Ok(false);
        }
        self.write(absolute, bytes, mode)?;
        Ok(true)
    }

    pub fn remove(&self, absolute: &str) -> Result<(), StateError> {
        let path = self.path(absolute);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_parent(&path),
        };
        removed.map_err(|source| StateError::Write { path, source })
    }

    pub fn load<T: Versioned>(&self, absolute: &str) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(absolute)? else { return Ok(None) };
        wire::decode(&bytes).map(Some).map_err(|source| StateError::Damaged {
            path: self.path(absolute),
            hint: REINSTALL,
            source,
        })
    }

    pub fn save<T: Versioned>(&self, absolute: &str, value: &T) -> Result<(), StateError> {
        self.write(absolute, &wire::encode(value), 0o600)
    }

    /// The node's seed. It never leaves this function but inside the key.
    pub fn key(&self) -> Result<Option<SecretKey>, StateError> {
        let Some(bytes) = self.read(KEY)?.map(Zeroizing::new) else { return Ok(None) };
        let seed = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| StateError::Key { path: self.path(KEY), have: bytes.len() })?;
        Ok(Some(SecretKey::from_seed(seed)))
    }

    pub fn trust(&self) -> Result<Option<Trust>, StateError> {
        self.load(TRUST)
    }

    pub fn numbers(&self) -> Result<Numbers, StateError> {
        Ok(self.load(SEEN)?.unwrap_or_default())
    }

    /// The manifest in force: signature and number are looked at again, its expiry is not (design §5).
    pub fn manifest(&self, trust: &Trust, me: &PublicKey) -> Result<Option<Verified<Manifest>>, StateError> {
        let Some(signed) = self.load::<Signed<Manifest>>(MANIFEST)? else { return Ok(None) };
        let numbers = self.numbers()?;
        let listener = Listener { accepted: numbers.manifest, now: None, ..Listener::default() };
        let verified = signed.verify(By::Online(trust), &listener).and_then(|verified| {
            match verified.get().audience() {
                Some((_, key)) if key != me.fingerprint() => Err(Refused::OtherKey { intended: key }),
                Some(_) | None => Ok(verified),
            }
        });
        verified.map(Some).map_err(|source| StateError::Refused { path: self.path(MANIFEST), source })
    }

    pub fn roster(&self, trust: &Trust) -> Result<Option<Verified<Roster>>, StateError> {
        let Some(signed) = self.load::<Signed<Roster>>(ROSTER)? else { return Ok(None) };
        let listener = Listener { accepted: self.numbers()?.roster, now: None, ..Listener::default() };
        let verified = signed.verify(By::Online(trust), &listener);
        verified.map(Some).map_err(|source| StateError::Refused { path: self.path(ROSTER), source })
    }

    pub fn boot(&self, path: &Path) -> Result<Option<Boot>, StateError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path: path.into(), source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StateError::Boot { path: path.into(), source })
    }
}

/// The newest statement of each series that this node has accepted, with its digest: an equal number with other
/// bytes is another statement and refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    pub delegation: u32,
    pub manifest: Option<Accepted>,
    pub roster: Option<Accepted>,
    pub grant: Option<Accepted>,
    pub command: Option<Accepted>,
    pub order: Option<Accepted>,
}

impl Versioned for Numbers {
    const VERSION: u8 = 1;
}

impl Numbers {
    /// As told to the provisioner.
    pub fn seen(&self) -> Seen {
        let number = |accepted: Option<Accepted>| accepted.map_or_else(Number::default, |a| a.number);
        Seen {
            delegation: self.delegation,
            manifest: number(self.manifest),
            order: number(self.order),
            fence: number(self.grant).max(number(self.command)),
            roster: number(self.roster),
        }
    }
}

/// What PID 1 hands to the node service through `/run/muster/boot`. Both come from one binary, so JSON may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// This boot of this machine.
    pub boot: InstanceId,
    /// Stages finished before `switch_root`, in milliseconds since kernel start.
    pub stages: Vec<Stage>,
    pub interface: Option<String>,
    pub mac: Option<Mac>,
    pub address: Option<Cidr>,
    pub gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// The provisioner's TLS API, if it answered.
    pub provisioner: Option<SocketAddr>,
    /// Its port for artifacts.
    #[serde(default = "port_80")]
    pub http_port: u16,
    pub detected: Class,
    /// The order that the marker calls installed.
    pub order: Option<Number>,
    pub slot: Option<BootedSlot>,
    pub kernel_release: String,
}

fn port_80() -> u16 {
    80
}

/// The slot that PID 1 switched into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootedSlot {
    /// The whole disk, such as `/dev/nvme0n1`: the marker lies there.
    pub disk: PathBuf,
    /// 0 or 1.
    pub index: usize,
    pub image: Digest,
}

/// Milliseconds since the kernel started, sleep included.
pub fn uptime_ms() -> u64 {
    let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds * 1000 + nanos / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::make_folder;
    use crate::node::testing::{Cluster, scratch};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_secret_is_never_readable_by_others_even_over_a_leftover() {
        let root = scratch();
        let leftover = root.path("/var/lib/muster/.node.key.new");
        make_folder(leftover.parent().unwrap()).unwrap();
        fs::write(&leftover, b"half").unwrap();
        root.write(KEY, &[7; 32], 0o600).unwrap();
        let found = fs::metadata(root.path(KEY)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        assert_eq!(root.key().unwrap().unwrap().seed(), &[7; 32]);
        assert!(!leftover.exists());
    }

    #[test]
    fn an_unchanged_file_keeps_its_inode() {
        let root = scratch();
        let inode = |root: &Root| fs::metadata(root.path("/etc/x")).unwrap().ino();
        assert!(root.write_if_other("/etc/x", b"one", 0o644).unwrap());
        let first = inode(&root);
        assert!(!root.write_if_other("/etc/x", b"one", 0o644).unwrap());
        assert_eq!(first, inode(&root));
        assert!(root.write_if_other("/etc/x", b"two", 0o644).unwrap());
    }

    #[test]
    fn every_damaged_file_is_an_error_with_a_hint_and_no_panic() {
        let root = scratch();
        let cluster = Cluster::new();
        for bytes in [b"".as_slice(), b"\x01", b"\xff\xff\xff\xff", &[1; 4000]] {
            for path in [TRUST, MANIFEST, ROSTER, SEEN] {
                root.write(path, bytes, 0o600).unwrap();
            }
            assert!(matches!(root.trust(), Err(StateError::Damaged { .. })), "{bytes:?}");
            assert!(matches!(root.numbers(), Err(StateError::Damaged { .. })));
            let me = cluster.node(1).public();
            assert!(matches!(root.manifest(&cluster.trust, &me), Err(StateError::Damaged { .. })));
            assert!(matches!(root.roster(&cluster.trust), Err(StateError::Damaged { .. })));
        }
        root.write(KEY, &[1; 31], 0o600).unwrap();
        assert!(matches!(root.key(), Err(StateError::Key { have: 31, .. })));
    }

    #[test]
    fn a_stored_manifest_older_than_the_numbers_is_refused() {
        let root = scratch();
        let cluster = Cluster::new();
        let manifest = cluster.manifest(1);
        root.save(MANIFEST, &cluster.sign(&manifest)).unwrap();
        let me = cluster.node(1).public();
        assert_eq!(root.manifest(&cluster.trust, &me).unwrap().unwrap().get(), &manifest);

        let newer = Accepted { number: Number { n: 99, ..manifest.number }, digest: Digest([0; 32]) };
        root.save(SEEN, &Numbers { manifest: Some(newer), ..Numbers::default() }).unwrap();
        assert!(matches!(root.manifest(&cluster.trust, &me), Err(StateError::Refused { .. })));
    }

    #[test]
    fn a_manifest_of_another_node_is_not_ours() {
        let root = scratch();
        let cluster = Cluster::new();
        root.save(MANIFEST, &cluster.sign(&cluster.manifest(1))).unwrap();
        let other = cluster.node(2).public();
        assert!(matches!(root.manifest(&cluster.trust, &other), Err(StateError::Refused { .. })));
    }
}
