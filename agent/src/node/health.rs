//! The node's status, made of what was seen. Pure, but for memory and free space, which are read below the root.

use crate::node::units::UnitState;
use crate::state::{Boot, Root};
use muster_protocol::class::{Fit, fits};
use muster_protocol::etcd::{NodeSeen, OwnMember};
use muster_protocol::ids::{Arch, Role};
use muster_protocol::keys::Fingerprint;
use muster_protocol::manifest::{KataRequire, Manifest};
use muster_protocol::ready::judge;
use muster_protocol::status::{EtcdSeen, Evidence, K3sSeen, KataSeen, Progress, Stage, State, Status};
use std::net::Ipv4Addr;

/// What one round saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub unit: UnitState,
    /// As `k3s --version` says.
    pub k3s_version: Option<String>,
    /// k3s was let through at least once on this disk.
    pub started: bool,
    pub member: Option<OwnMember>,
    pub kata: Option<KataSeen>,
    pub node: Option<NodeSeen>,
    pub balancer: Option<bool>,
}

/// What does not change within a boot.
#[derive(Debug, Clone)]
pub struct Still {
    pub key: Fingerprint,
    pub boot: Boot,
    pub arch: Arch,
}

/// What changes without being seen from outside.
#[derive(Debug, Clone, Default)]
pub struct Doing {
    pub sequence: u64,
    pub uptime_ms: u64,
    pub was_ready: bool,
    pub step: Option<Progress>,
    /// What hinders, in words; told before the judge's own reasons.
    pub troubles: Vec<String>,
    /// Why the provisioner does not answer. Whoever asks while it is down knows that; what else hinders comes first, unless
    /// nothing can go on without it.
    pub away: Option<String>,
    pub stages: Vec<Stage>,
    pub address: Option<Ipv4Addr>,
}

pub fn evidence(manifest: &Manifest, seen: &Seen) -> Evidence {
    let k3s = seen.started.then(|| K3sSeen {
        version: seen.k3s_version.clone().unwrap_or_else(|| manifest.k3s.version.clone()),
        unit: seen.unit.active.clone(),
        restarts: seen.unit.restarts,
        started_ms: seen.unit.since_ms,
    });
    let etcd = seen.member.as_ref().map(|own| EtcdSeen {
        voter: !own.learner,
        leader: own.leader,
        member_id: own.member_id,
        cluster_id: own.identity.map(|identity| identity.cluster_id),
        ca: own.identity.map(|identity| identity.ca),
        ready: own.ready,
        members: own.members.clone().unwrap_or_default(),
    });
    Evidence {
        k3s,
        etcd,
        kata: seen.kata.clone(),
        node: seen.node.clone(),
        balancer: seen.balancer.filter(|_| manifest.role == Role::Worker),
    }
}

pub fn status(root: &Root, still: &Still, manifest: &Manifest, seen: &Seen, doing: Doing) -> Status {
    let evidence = evidence(manifest, seen);
    let (state, reasons) = judge(manifest, &evidence, doing.was_ready);
    let reasons = match state {
        State::Ready => Vec::new(),
        State::Netbooted
        | State::Waiting
        | State::Installing
        | State::Booting
        | State::Installed
        | State::Joining
        | State::Degraded
        | State::Failed => {
            let (first, last) = if seen.started { (None, doing.away) } else { (doing.away, None) };
            first.into_iter().chain(doing.troubles).chain(reasons).chain(last).collect()
        }
    };
    let fit = fits(manifest.class, still.boot.detected).ok();
    let (memory_total, memory_available) = memory(root);
    Status {
        node: Some(manifest.node.clone()),
        key: still.key,
        boot: still.boot.boot,
        sequence: doing.sequence,
        uptime_ms: doing.uptime_ms,
        state,
        step: doing.step,
        reasons,
        arch: still.arch,
        declared: Some(manifest.class),
        detected: still.boot.detected,
        fit,
        role: Some(manifest.role),
        address: manifest.network.address.map(|cidr| cidr.address).or(doing.address),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        kernel: still.boot.kernel_release.clone(),
        image: still.boot.slot.as_ref().map(|slot| slot.image),
        manifest: Some(manifest.number),
        evidence,
        stand_ins: stand_ins(manifest, fit),
        memory_total,
        memory_available,
        data_free: free(root),
        stages: doing.stages,
    }
}

/// Everything that is not the real thing here.
fn stand_ins(manifest: &Manifest, fit: Option<Fit>) -> Vec<String> {
    let mut found: Vec<String> = manifest.k3s.stand_in.iter().map(|words| which_part("k3s", words)).collect();
    if let Some(kata) = &manifest.kata {
        found.extend(kata.stand_in.iter().map(|words| which_part("kata", words)));
        match kata.require {
            KataRequire::Files => {
                found.push("kata: files only, no guest is started (kata.require = \"files\")".into())
            }
            KataRequire::Kvm => {}
        }
    }
    match fit {
        Some(Fit::DeclaredOnly) => found.push(format!("class {}: declared, not detected", manifest.class)),
        Some(Fit::Detected) | None => {}
    }
    found
}

/// A person's words for an artifact, which need not say for which.
fn which_part(part: &str, words: &str) -> String {
    match words.to_ascii_lowercase().contains(part) {
        true => words.into(),
        false => format!("{part}: {words}"),
    }
}

/// Total and available bytes, by /proc/meminfo.
fn memory(root: &Root) -> (u64, u64) {
    let text = root.read("/proc/meminfo").ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("MemTotal").unwrap_or(0), field("MemAvailable").unwrap_or(0))
}

fn free(root: &Root) -> Option<u64> {
    let facts = nix::sys::statvfs::statvfs(&root.path("/var")).ok()?;
    // u32 or u64 by architecture.
    #[allow(clippy::useless_conversion, reason = "these types differ between libcs")]
    let (blocks, size) = (u64::from(facts.blocks_available()), u64::from(facts.fragment_size()));
    Some(blocks.saturating_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, a_boot, scratch};
    use muster_protocol::class::Class;

    fn still(detected: Class) -> Still {
        Still {
            key: Cluster::new().node(1).public().fingerprint(),
            boot: Boot { detected, ..a_boot() },
            arch: Arch::X86_64,
        }
    }

    fn ready_worker() -> Seen {
        let manifest = Cluster::new().manifest(4);
        Seen {
            unit: UnitState { active: "active".into(), since_ms: Some(9), ..UnitState::default() },
            k3s_version: Some("v1.36.3+k3s1".into()),
            started: true,
            member: None,
            kata: Some(KataSeen {
                version: "4.1.0".into(),
                files: true,
                kvm: false,
                in_place_ms: 1,
                handler: true,
            }),
            node: Some(NodeSeen {
                name: manifest.node.clone(),
                ready: true,
                taints: vec![],
                labels: vec![],
                kubelet_version: "v1.36.3".into(),
                runtime_handlers: vec![],
            }),
            balancer: Some(true),
        }
    }

    fn run(seen: &Seen, doing: Doing) -> Status {
        let root = scratch();
        root.write("/proc/meminfo", b"MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n", 0o644)
            .unwrap();
        std::fs::create_dir_all(root.path("/var")).unwrap();
        status(&root, &still(Class::Generic), &Cluster::new().manifest(4), seen, doing)
    }

    #[test]
    fn a_ready_node_has_no_reasons_whatever_troubled_it() {
        let doing = Doing { troubles: vec!["a manifest is not believed".into()], ..Doing::default() };
        let status = run(&ready_worker(), doing);
        assert_eq!((status.state, status.reasons.len()), (State::Ready, 0));
        assert_eq!((status.memory_total, status.memory_available), (2 << 20, 1 << 20));
        assert!(status.data_free.is_some());
    }

    #[test]
    fn troubles_come_before_the_judge_s_reasons() {
        let seen = Seen { started: false, ..ready_worker() };
        let doing = Doing { troubles: vec!["there is no token here yet".into()], ..Doing::default() };
        let status = run(&seen, doing);
        assert_eq!(status.state, State::Installed);
        assert_eq!(status.reasons[0], "there is no token here yet");
        assert_eq!(status.reasons[1], "k3s was not started yet");
    }

    #[test]
    fn an_absent_provisioner_is_told_last_once_k3s_runs_without_it() {
        let away = || Doing { away: Some("nobody answers".into()), ..Doing::default() };
        let joining = Seen { balancer: Some(false), ..ready_worker() };
        assert_eq!(run(&joining, away()).reasons[1..], ["nobody answers"]);
        let blank = Seen { started: false, ..joining };
        assert_eq!(run(&blank, away()).reasons[0], "nobody answers");
    }

    #[test]
    fn what_was_ready_is_degraded_not_joining() {
        let seen = Seen { balancer: Some(false), ..ready_worker() };
        assert_eq!(run(&seen, Doing { was_ready: true, ..Doing::default() }).state, State::Degraded);
        assert_eq!(run(&seen, Doing::default()).state, State::Joining);
    }

    #[test]
    fn a_taint_that_nobody_declared_is_shown_and_no_fault() {
        let mut seen = ready_worker();
        seen.node.as_mut().unwrap().taints = vec!["maintenance=now:NoSchedule".into()];
        for was_ready in [true, false] {
            let status = run(&seen, Doing { was_ready, ..Doing::default() });
            assert_eq!((status.state, status.reasons.len()), (State::Ready, 0));
            assert_eq!(status.evidence.node.unwrap().taints, ["maintenance=now:NoSchedule"]);
        }
    }

    #[test]
    fn a_declared_taint_that_is_missing_or_has_another_value_is_a_fault() {
        let mut manifest = Cluster::new().manifest(4);
        manifest.taints = vec!["nvidia.com/gpu=present:NoSchedule".into()];
        for taints in [vec![], vec!["nvidia.com/gpu=absent:NoSchedule".to_owned()]] {
            let mut seen = ready_worker();
            seen.node.as_mut().unwrap().taints = taints;
            let (state, reasons) = judge(&manifest, &evidence(&manifest, &seen), true);
            assert_eq!(state, State::Degraded);
            assert_eq!(reasons, ["taint nvidia.com/gpu=present:NoSchedule is missing on its Node object"]);
        }
    }

    #[test]
    fn a_stand_in_is_told_for_the_part_that_it_is() {
        let mut manifest = Cluster::new().manifest(4);
        manifest.kata.as_mut().unwrap().stand_in = Some("placeholder files".into());
        let told = stand_ins(&manifest, None);
        assert_eq!(told[0], "kata: placeholder files");
        assert!(told.iter().all(|words| !words.contains("k3s")), "k3s is the real one: {told:?}");
        manifest.k3s.stand_in = Some("K3s v1.36.3: over Debian's etcd".into());
        assert_eq!(stand_ins(&manifest, None)[0], "K3s v1.36.3: over Debian's etcd");
    }

    #[test]
    fn whatever_is_not_real_is_listed() {
        let stand_ins = run(&ready_worker(), Doing::default()).stand_ins;
        assert!(stand_ins.iter().any(|text| text.contains("declared, not detected")), "{stand_ins:?}");
        assert!(stand_ins.iter().any(|text| text.contains("kata.require")), "{stand_ins:?}");
    }
}
