//! What a running node says and is told.

use super::{CLUSTER, name, node_key, number, online, seen};
use muster_protocol::class::{Class, Fit};
use muster_protocol::etcd::{
    EtcdMember, GateRecord, Identity, NodeSeen, Outside, OwnMember, ServerReport, SnapshotTaken,
};
use muster_protocol::grant::{Action, Command, CommandResult, Grant, Start};
use muster_protocol::ids::{Arch, Digest, InstanceId, Mac, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::lan::{Brief, EtcdBrief, Question};
use muster_protocol::manifest::{K3s, Kata, KataRequire, Manifest, Network, PlacedFile, Registration};
use muster_protocol::roster::{Member, Operator, Roster};
use muster_protocol::signed::Signed;
use muster_protocol::status::{EtcdSeen, Evidence, K3sSeen, KataSeen, Progress, Stage, State, Status};
use muster_protocol::sync::{SyncReply, SyncRequest};

pub(crate) fn manifest() -> Manifest {
    Manifest {
        number: number(11),
        node: name("mini-pc-1"),
        key: node_key().public().fingerprint(),
        class: Class::MiniPc,
        role: Role::Server,
        cluster_name: "sharpi".into(),
        network: Network {
            macs: vec![Mac([0x52, 0x54, 0, 0, 0, 0x11])],
            address: Some("10.77.0.11/24".parse().unwrap()),
            gateway: Some([10, 77, 0, 1].into()),
            dns: vec![[10, 77, 0, 1].into()],
            ntp: vec![[10, 77, 0, 1].into()],
        },
        k3s: K3s {
            version: "v1.36.3+k3s1".into(),
            files: vec![PlacedFile {
                path: "k3s".into(),
                mode: 0o755,
                digest: Digest([6; 32]),
                bytes: 58 << 20,
            }],
            servers: vec![(name("mini-pc-1"), [10, 77, 0, 11].into())],
            registration: Registration::Hosts,
            shared: vec![("disable".into(), vec!["traefik".into()])],
            stand_in: Some("k3s is a stand-in".into()),
        },
        kata: Some(Kata {
            version: "4.1.0".into(),
            archive: Digest([8; 32]),
            archive_bytes: 4096,
            require: KataRequire::Kvm,
            stand_in: None,
        }),
        labels: vec![("katacontainers.io/kata-runtime".into(), "true".into())],
        taints: vec!["nvidia.com/gpu=present:NoSchedule".into()],
        authorized_keys: vec!["ssh-ed25519 AAAA operator@example".into()],
        expires_at: 1_795_600_000,
    }
}

pub(crate) fn members() -> Vec<EtcdMember> {
    vec![
        EtcdMember {
            id: 10_322_934_327_229_565_649,
            name: Some("mini-pc-1-4b786ce8".into()),
            peer: Some([10, 77, 0, 11].into()),
            learner: false,
        },
        EtcdMember { id: 3, name: None, peer: Some([10, 77, 0, 12].into()), learner: true },
    ]
}

pub(crate) fn node_seen() -> NodeSeen {
    NodeSeen {
        name: name("mini-pc-1"),
        ready: true,
        taints: vec!["nvidia.com/gpu=present:NoSchedule".into()],
        labels: vec![("a".into(), "b".into())],
        kubelet_version: "v1.36.3+k3s1".into(),
        runtime_handlers: vec!["kata-qemu-runtime-rs".into()],
    }
}

pub(crate) fn status() -> Status {
    Status {
        node: Some(name("mini-pc-1")),
        key: node_key().public().fingerprint(),
        boot: InstanceId([3; 8]),
        sequence: 9,
        uptime_ms: 61_000,
        state: State::Joining,
        step: Some(Progress { step: "write".into(), done: 4 << 20, total: 500 << 20 }),
        reasons: vec!["mini-pc-2 joins first".into()],
        arch: Arch::X86_64,
        declared: Some(Class::MiniPc),
        detected: Class::Generic,
        fit: Some(Fit::DeclaredOnly),
        role: Some(Role::Server),
        address: Some([10, 77, 0, 11].into()),
        agent_version: "0.1.0".into(),
        kernel: "6.12.48+deb13-amd64".into(),
        image: Some(Digest([1; 32])),
        manifest: Some(number(11)),
        evidence: Evidence {
            k3s: Some(K3sSeen {
                version: "v1.36.3+k3s1".into(),
                unit: "active".into(),
                restarts: 1,
                started_ms: Some(50_000),
            }),
            etcd: Some(EtcdSeen {
                voter: true,
                leader: Some(1),
                member_id: 1,
                cluster_id: Some(2),
                ca: Some(Digest([4; 32])),
                ready: true,
                members: members(),
            }),
            kata: Some(KataSeen {
                version: "4.1.0".into(),
                files: true,
                kvm: false,
                in_place_ms: 40_000,
                handler: true,
            }),
            node: Some(node_seen()),
            balancer: Some(true),
        },
        stand_ins: vec!["k3s".into()],
        memory_total: 1 << 30,
        memory_available: 1 << 29,
        data_free: Some(9 << 30),
        stages: vec![Stage { step: "write".into(), started_ms: 20_000, ms: 15_000, bytes: Some(500 << 20) }],
    }
}

pub(crate) fn roster() -> Roster {
    Roster {
        version: number(10),
        operators: vec![Operator { name: "alex".into(), key: SecretKey::from_seed([6; 32]).public() }],
        nodes: vec![Member {
            name: name("mini-pc-1"),
            key: node_key().public(),
            role: Role::Server,
            address: Some([10, 77, 0, 11].into()),
        }],
        recovery: SecretKey::from_seed([7; 32]).public(),
    }
}

pub(crate) fn identity() -> Identity {
    Identity { ca: Digest([4; 32]), cluster_id: 14_582_655_591_186_328_306 }
}

pub(crate) fn grants() -> Vec<Grant> {
    let start = [
        Start::Init { nonce: [1; 16], installation: number(12) },
        Start::Join { identity: identity(), voters: vec![(name("mini-pc-1"), [10, 77, 0, 11].into())] },
    ];
    let key = node_key().public().fingerprint();
    start.into_iter().map(|start| Grant { fence: number(13), node: name("mini-pc-2"), key, start }).collect()
}

pub(crate) fn commands() -> Vec<Command> {
    let actions = [
        Action::Snapshot { name: "muster-1".into() },
        Action::Apply { name: "runtimeclass-kata".into(), yaml: "kind: RuntimeClass".into() },
        Action::Label {
            node: name("rtx-host"),
            labels: vec![("a".into(), "b".into())],
            taints: vec!["nvidia.com/gpu=present:NoSchedule".into()],
        },
    ];
    let key = node_key().public().fingerprint();
    let command = |action| Command {
        fence: number(14),
        node: name("mini-pc-1"),
        key,
        action,
        expires_at: 1_795_600_000,
    };
    actions.into_iter().map(command).collect()
}

pub(crate) fn server_report() -> ServerReport {
    ServerReport {
        data: muster_protocol::etcd::DataFacts { wal: true, tombstone: false, state_db: false },
        record: GateRecord::Member {
            identity: identity(),
            name: "mini-pc-1-4b786ce8".into(),
            address: [10, 77, 0, 11].into(),
        },
        granted: Some(number(13)),
        unit: "active".into(),
        own: Some(OwnMember {
            identity: Some(identity()),
            member_id: 1,
            learner: false,
            leader: Some(1),
            healthy: true,
            ready: true,
            members: Ok(members()),
            connected: vec![3],
        }),
        outside: vec![Outside {
            address: [10, 77, 0, 12].into(),
            peer_port: true,
            ca: Some(Digest([4; 32])),
            members: Err("etcdserver: rpc not supported for learner".into()),
        }],
        newest_snapshot: Some(SnapshotTaken { name: "muster-1".into(), unix: 1_795_000_100 }),
        clock_offset_ms: Some(-12),
        k3s_version: Some("v1.36.3+k3s1".into()),
        nodes: vec![node_seen()],
        runtime_classes: Some(vec!["kata-qemu-runtime-rs".into()]),
    }
}

pub(crate) fn sync_request() -> SyncRequest {
    SyncRequest {
        status: status(),
        seen: seen(),
        installed: Some(number(12)),
        server: Some(server_report()),
        wants_grant: true,
        results: vec![CommandResult { fence: number(14), outcome: Ok("done".into()) }],
        boxes: Vec::new(),
        clock_nonce: Some([5; 16]),
    }
}

pub(crate) fn sync_reply() -> SyncReply {
    SyncReply {
        manifest: Some(Signed::by_online(CLUSTER, &online(), &manifest())),
        roster: Some(Signed::by_online(CLUSTER, &online(), &roster())),
        clock: None,
        grant: Some(Signed::by_online(CLUSTER, &online(), &grants()[0])),
        commands: Vec::new(),
        boxes: Vec::new(),
        node: Some(node_seen()),
        next_ms: 5_000,
    }
}

pub(crate) fn question() -> Question {
    Question {
        nonce: [2; 16],
        operator: SecretKey::from_seed([6; 32]).public().fingerprint(),
        asked_at_ms: 1_795_000_000_000,
        fleet: 7,
        padding: vec![0; 8],
    }
}

pub(crate) fn brief() -> Brief {
    Brief {
        nonce: [2; 16],
        node: name("mini-pc-1"),
        key: node_key().public().fingerprint(),
        boot: InstanceId([3; 8]),
        sequence: 9,
        uptime_ms: 61_000,
        state: State::Ready,
        step: Some("write".into()),
        reason: Some("why".into()),
        role: Role::Server,
        address: Some([10, 77, 0, 11].into()),
        k3s_version: Some("v1.36.3+k3s1".into()),
        stand_ins: vec!["k3s is a stand-in".into()],
        etcd: Some(EtcdBrief { voter: true, leader: Some(1), member_id: 1, cluster_id: Some(2), members: 3 }),
        kata: Some("4.1.0".into()),
        taints: vec![],
    }
}
