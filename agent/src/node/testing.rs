//! A cluster of three servers and two workers for tests: keys, trust, statements.

use crate::state::{Boot, KEY, MANIFEST, ROSTER, Root, TRUST};
use muster_protocol::class::Class;
use muster_protocol::grant::{Grant, Start};
use muster_protocol::ids::{Arch, Cidr, ClusterId, Digest, InstanceId, NodeName, Number, Role};
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::manifest::{K3s, Kata, KataRequire, Manifest, Network, PlacedFile, Registration};
use muster_protocol::roster::{Member, Operator, Roster};
use muster_protocol::signed::{Delegation, OnlineKey, Signed, Statement, Trust};
use muster_protocol::status::{EtcdSeen, Evidence, K3sSeen, State, Status};
use std::net::Ipv4Addr;
use std::ops::Deref;
use tempfile::TempDir;

/// A folder of its own, gone when dropped.
pub(crate) struct Scratch {
    root: Root,
    _folder: TempDir,
}

pub(crate) fn scratch() -> Scratch {
    let folder = tempfile::tempdir().unwrap();
    Scratch { root: Root::new(folder.path()), _folder: folder }
}

impl Deref for Scratch {
    type Target = Root;
    fn deref(&self) -> &Root {
        &self.root
    }
}

pub(crate) struct Cluster {
    pub(crate) trust: Trust,
    pub(crate) online: OnlineKey,
}

/// Nodes 1 to 3 are servers, 4 and 5 workers.
impl Cluster {
    pub(crate) fn new() -> Self {
        let cluster = ClusterId([9; 16]);
        let root = SecretKey::from_seed([100; 32]);
        let secret = SecretKey::from_seed([101; 32]);
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let delegation = Signed::by_key(cluster, &root, &delegation);
        Self {
            trust: Trust {
                cluster,
                cluster_name: "sharpi".into(),
                root: root.public().verify,
                build_epoch: 1_700_000_000,
            },
            online: OnlineKey { secret, delegation, number: 1 },
        }
    }

    pub(crate) fn node(&self, n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    pub(crate) fn operator(&self) -> SecretKey {
        SecretKey::from_seed([50; 32])
    }

    pub(crate) fn recovery(&self) -> SecretKey {
        SecretKey::from_seed([51; 32])
    }

    pub(crate) fn name(n: u8) -> NodeName {
        format!("mini-pc-{n}").parse().unwrap()
    }

    pub(crate) fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 10 + n)
    }

    pub(crate) fn number(n: u64) -> Number {
        Number { delegation: 1, generation: 0, n }
    }

    pub(crate) fn sign<T: Statement>(&self, value: &T) -> Signed<T> {
        Signed::by_online(self.trust.cluster, &self.online, value)
    }

    pub(crate) fn manifest(&self, n: u8) -> Manifest {
        let role = if n <= 3 { Role::Server } else { Role::Worker };
        Manifest {
            number: Self::number(10),
            node: Self::name(n),
            key: self.node(n).public().fingerprint(),
            class: Class::MiniPc,
            role,
            cluster_name: "sharpi".into(),
            network: Network {
                macs: vec![],
                address: (role == Role::Server).then(|| Cidr { address: Self::address(n), prefix: 24 }),
                gateway: None,
                dns: vec![],
                ntp: vec![],
            },
            k3s: K3s {
                version: "v1.36.3+k3s1".into(),
                files: vec![PlacedFile {
                    path: "k3s".into(),
                    mode: 0o755,
                    digest: Digest::of(b"k3s binary"),
                    bytes: 10,
                }],
                servers: (1..=3).map(|n| (Self::name(n), Self::address(n))).collect(),
                registration: Registration::Hosts,
                shared: vec![("disable".into(), vec!["traefik".into()])],
                stand_in: None,
            },
            kata: Some(Kata {
                version: "4.1.0".into(),
                archive: Digest::of(b"archive"),
                archive_bytes: 7,
                require: KataRequire::Files,
                stand_in: None,
            }),
            labels: vec![("muster.dev/class".into(), "mini-pc".into())],
            taints: vec![],
            authorized_keys: vec![],
            expires_at: u64::MAX,
        }
    }

    pub(crate) fn roster(&self) -> Roster {
        let node = |n: u8| Member {
            name: Self::name(n),
            key: self.node(n).public(),
            role: if n <= 3 { Role::Server } else { Role::Worker },
            address: Some(Self::address(n)),
        };
        Roster {
            version: Self::number(20),
            operators: vec![Operator { name: "ann".into(), key: self.operator().public() }],
            nodes: (1..=5).map(node).collect(),
            recovery: self.recovery().public(),
        }
    }

    pub(crate) fn servers(&self) -> Vec<PublicKey> {
        (1..=3).map(|n| self.node(n).public()).collect()
    }

    pub(crate) fn grant(&self, n: u8, fence: u64, start: Start) -> Grant {
        Grant {
            fence: Self::number(fence),
            node: Self::name(n),
            key: self.node(n).public().fingerprint(),
            start,
        }
    }
}

/// A node's disk as the installer leaves it, with a roster.
pub(crate) fn node(cluster: &Cluster, n: u8) -> Scratch {
    let root = scratch();
    root.save(TRUST, &cluster.trust).unwrap();
    root.write(KEY, cluster.node(n).seed(), 0o600).unwrap();
    root.save(MANIFEST, &cluster.sign(&cluster.manifest(n))).unwrap();
    root.save(ROSTER, &cluster.sign(&cluster.roster())).unwrap();
    root
}

/// A server that answers.
pub(crate) fn a_status(n: u8) -> Status {
    let manifest = Cluster::new().manifest(n);
    Status {
        node: Some(manifest.node),
        key: manifest.key,
        boot: InstanceId([1; 8]),
        sequence: 4,
        uptime_ms: 60_000,
        state: State::Joining,
        step: None,
        reasons: vec!["etcd has no leader".into()],
        arch: Arch::X86_64,
        declared: Some(manifest.class),
        detected: Class::Generic,
        fit: None,
        role: Some(manifest.role),
        address: Some(Cluster::address(n)),
        agent_version: "0.1.0".into(),
        kernel: "6.12".into(),
        image: None,
        manifest: Some(manifest.number),
        evidence: Evidence {
            k3s: Some(K3sSeen {
                version: "v1.36.3+k3s1".into(),
                unit: "active".into(),
                restarts: 0,
                started_ms: Some(50_000),
            }),
            etcd: Some(EtcdSeen {
                voter: true,
                leader: None,
                member_id: u64::MAX - 3,
                cluster_id: Some(u64::MAX - 4),
                ca: None,
                ready: false,
                members: vec![],
            }),
            kata: None,
            node: None,
            balancer: None,
        },
        stand_ins: vec!["k3s: stand-in".into()],
        memory_total: 1 << 30,
        memory_available: 1 << 29,
        data_free: Some(1 << 33),
        stages: vec![],
    }
}

pub(crate) fn a_boot() -> Boot {
    Boot {
        boot: InstanceId([1; 8]),
        stages: vec![],
        interface: None,
        mac: None,
        address: None,
        gateway: None,
        dns: vec![],
        provisioner: None,
        http_port: 80,
        detected: Class::Generic,
        order: None,
        slot: None,
        kernel_release: "6.12".into(),
    }
}
