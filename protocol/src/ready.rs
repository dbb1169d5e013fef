//! When a node may be called ready: a pure function over evidence, the same in agent, provisioner and report.

use crate::ids::Role;
use crate::manifest::{Kata, KataRequire, Manifest};
use crate::status::{Evidence, State};
use alloc::{format, string::String, vec::Vec};

/// `Ready`, or what is missing. A node that was ready and lost something is `Degraded`.
pub fn judge(manifest: &Manifest, evidence: &Evidence, was_ready: bool) -> (State, Vec<String>) {
    let reasons = missing(manifest, evidence);
    let state = match (reasons.is_empty(), was_ready) {
        (true, _) => State::Ready,
        (false, true) => State::Degraded,
        (false, false) if evidence.k3s.is_some() => State::Joining,
        (false, false) => State::Installed,
    };
    (state, reasons)
}

fn missing(manifest: &Manifest, evidence: &Evidence) -> Vec<String> {
    let mut reasons = Vec::new();
    match &evidence.k3s {
        None => reasons.push("k3s was not started yet".into()),
        Some(k3s) if k3s.unit != "active" => reasons.push(format!("k3s is {}", k3s.unit)),
        Some(_) => {}
    }
    match manifest.role {
        Role::Server => match &evidence.etcd {
            None => reasons.push("etcd does not answer".into()),
            Some(etcd) => {
                if !etcd.voter {
                    reasons.push("etcd member is a learner, not a voter yet".into());
                }
                if etcd.leader.is_none() {
                    reasons.push("etcd has no leader".into());
                }
                if !etcd.ready {
                    reasons.push("the API server's /readyz does not say ok".into());
                }
            }
        },
        Role::Worker => {
            if evidence.balancer != Some(true) {
                reasons.push("the local load balancer reached no server yet".into());
            }
        }
    }
    if let Some(kata) = &manifest.kata {
        reasons.extend(kata_missing(kata, evidence));
    }
    match &evidence.node {
        None => reasons.push("no server has seen this node yet".into()),
        Some(node) => {
            if !node.ready {
                reasons.push("its Node object is not Ready".into());
            }
            // One that nobody declared is a person's own, such as for maintenance: shown, left alone, no fault.
            for taint in &manifest.taints {
                if !node.taints.contains(taint) {
                    reasons.push(format!("taint {taint} is missing on its Node object"));
                }
            }
        }
    }
    reasons
}

fn kata_missing(wanted: &Kata, evidence: &Evidence) -> Option<String> {
    let Some(kata) = &evidence.kata else { return Some("Kata is not in place yet".into()) };
    if kata.version != wanted.version {
        return Some(format!("Kata {} is in place, {} is wanted", kata.version, wanted.version));
    }
    if !kata.files || !kata.handler {
        return Some("Kata's files differ from what was put in place".into());
    }
    match wanted.require {
        KataRequire::Kvm if !kata.kvm => {
            Some("virtualisation is off in firmware: /dev/kvm is missing".into())
        }
        KataRequire::Kvm | KataRequire::Files => None,
    }
}
