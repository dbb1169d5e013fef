//! A cluster's keys, and what its agents and its operator keep on their disks.

use super::support::Folder;
use muster_protocol::class::Class;
use muster_protocol::ids::{ClusterId, Digest, NodeName, Number, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::manifest::{K3s, Manifest, Network, PlacedFile, Registration};
use muster_protocol::roster::{Member, Operator, Roster};
use muster_protocol::signed::{Delegation, OnlineKey, Signed, Statement, Trust};
use muster_protocol::wire;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) const NAME: &str = "bench";
pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Addresses of all nodes.
pub(super) const CROWD: &str = "10.77.64.0/18";

pub(super) struct Home {
    folder: PathBuf,
    trust: Trust,
    online: OnlineKey,
    roster: Roster,
}

pub(super) fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 64, 1)) + n)
}

pub(super) fn name(n: u32) -> NodeName {
    format!("node-{n}").parse().unwrap()
}

/// The key of a node.
pub(super) fn key(n: u32) -> SecretKey {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

fn operator() -> SecretKey {
    SecretKey::from_seed([50; 32])
}

impl Home {
    /// The operator's folder, with a roster of so many nodes.
    pub(super) fn new(folder: &Folder, nodes: u32) -> Self {
        let (root, secret) = (SecretKey::from_seed([100; 32]), SecretKey::from_seed([101; 32]));
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let delegation = Signed::by_key(CLUSTER, &root, &delegation);
        let member =
            |n| Member { name: name(n), key: key(n).public(), role: Role::Worker, address: Some(address(n)) };
        let home = Self {
            folder: folder.path(""),
            trust: Trust {
                cluster: CLUSTER,
                cluster_name: NAME.into(),
                root: root.public().verify,
                build_epoch: 1_700_000_000,
            },
            online: OnlineKey { secret, delegation, number: 1 },
            roster: Roster {
                version: number(20),
                operators: vec![Operator { name: "ann".into(), key: operator().public() }],
                nodes: (0..nodes).map(member).collect(),
                recovery: SecretKey::from_seed([51; 32]).public(),
            },
        };
        let own = home.operator().join("muster").join(NAME);
        fs::create_dir_all(&own).unwrap();
        secret_file(&own.join("operator.key"), home.operator_hex().as_bytes());
        fs::write(own.join("trust"), wire::encode(&home.trust)).unwrap();
        fs::write(own.join("roster"), home.signed(&home.roster)).unwrap();
        home
    }

    /// What is `$XDG_STATE_HOME` for the operator.
    pub(super) fn operator(&self) -> PathBuf {
        self.folder.join("operator")
    }

    pub(super) fn operator_hex(&self) -> String {
        operator().seed().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The disk of a node that was installed and has started, with k3s still to be fetched.
    pub(super) fn node(&self, n: u32) -> PathBuf {
        let root = self.folder.join(name(n).as_str());
        let own = root.join("var/lib/muster");
        fs::create_dir_all(&own).unwrap();
        secret_file(&own.join("node.key"), key(n).seed());
        fs::write(own.join("trust"), wire::encode(&self.trust)).unwrap();
        fs::write(own.join("roster"), self.signed(&self.roster)).unwrap();
        let file = PlacedFile { path: "k3s".into(), mode: 0o755, digest: Digest::of(b"k3s"), bytes: 3 };
        let manifest = Manifest {
            number: number(10),
            node: name(n),
            key: key(n).public().fingerprint(),
            class: Class::MiniPc,
            role: Role::Worker,
            cluster_name: NAME.into(),
            network: Network { macs: vec![], address: None, gateway: None, dns: vec![], ntp: vec![] },
            k3s: K3s {
                version: "v1.36.3+k3s1".into(),
                files: vec![file],
                servers: vec![(name(0), address(0))],
                registration: Registration::Hosts,
                shared: vec![],
                stand_in: None,
            },
            kata: None,
            labels: vec![],
            taints: vec![],
            authorized_keys: vec![],
            expires_at: u64::MAX,
        };
        fs::write(own.join("manifest"), self.signed(&manifest)).unwrap();
        root
    }

    fn signed<T: Statement>(&self, value: &T) -> Vec<u8> {
        wire::encode(&Signed::by_online(CLUSTER, &self.online, value))
    }
}

fn number(n: u64) -> Number {
    Number { delegation: 1, generation: 0, n }
}

fn secret_file(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
