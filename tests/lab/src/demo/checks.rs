//! What must hold when all machines say `ready`: pure, over one answer of `muster status`. A finding is a sentence.

use super::status::{Answer, Evidence, Machine};
use crate::fleet::Declared;
use std::collections::BTreeSet;

const GPU_TAINT: &str = "nvidia.com/gpu=present:NoSchedule";

pub(crate) fn findings(declared: &[Declared], answer: &Answer) -> Vec<String> {
    let mut out = Vec::new();
    for wanted in declared {
        match answer.machine(&wanted.name) {
            None => out.push(format!("{} is missing in the status", wanted.name)),
            Some(machine) => match machine.evidence() {
                None => out.push(format!("{}: evidence of an unknown shape", wanted.name)),
                Some(evidence) => one_machine(wanted, machine, &evidence, &mut out),
            },
        }
    }
    etcd(declared, answer, &mut out);
    out
}

fn one_machine(wanted: &Declared, machine: &Machine, evidence: &Evidence, out: &mut Vec<String>) {
    let mut say = |text: String| out.push(format!("{}: {text}", wanted.name));
    if !machine.is_ready() {
        say(format!("is {}: {}", machine.doing(), machine.reasons.join("; ")));
    }
    if machine.role.as_deref() != Some(&*wanted.role) {
        say(format!("role {} instead of {}", machine.role.as_deref().unwrap_or("none"), wanted.role));
    }
    if evidence.node.as_ref().is_none_or(|node| !node.ready) {
        say("no server's agent has read its Node as Ready".into());
    }
    if evidence.k3s.as_ref().is_none_or(|k3s| k3s.unit != "active") {
        say("k3s's unit is not active".into());
    }
    let tainted =
        evidence.node.as_ref().is_some_and(|node| node.taints.iter().any(|taint| taint == GPU_TAINT));
    let gpu_only = wanted.class == "rtx-host";
    if gpu_only != tainted {
        let what = if gpu_only { "lacks" } else { "has" };
        say(format!("its Node {what} the taint {GPU_TAINT}"));
    }
    let sandbox = wanted.sandbox.unwrap_or(!gpu_only);
    match (&evidence.kata, &evidence.k3s) {
        (Some(kata), Some(k3s)) if sandbox => {
            if !kata.files || !kata.handler {
                say("Kata's files or its containerd drop-in are not in place".into());
            }
            match k3s.started_ms {
                Some(started) if kata.in_place_ms < started => {}
                Some(started) => {
                    say(format!("Kata came at {} ms, after k3s at {started} ms", kata.in_place_ms))
                }
                None => say("no start time of k3s to compare Kata's with".into()),
            }
        }
        (None, _) if sandbox => say("a sandbox node without Kata".into()),
        (Some(_), _) if !sandbox => say("Kata on a node that is no sandbox".into()),
        (Some(_) | None, _) => {}
    }
    let voter = evidence.etcd.as_ref().is_some_and(|etcd| etcd.voter);
    if voter != (wanted.role == "server") {
        say(if voter { "a worker that votes in etcd".into() } else { "a server that is no voter".into() });
    }
}

/// As many voters as servers, one leader, one cluster: by the provisioner's summary and by every server's own words.
fn etcd(declared: &[Declared], answer: &Answer, out: &mut Vec<String>) {
    let servers: BTreeSet<&str> = declared.iter().filter(|m| m.role == "server").map(|m| &*m.name).collect();
    let Some(summary) = &answer.etcd else {
        out.push("no word about etcd".into());
        return;
    };
    let voters = summary.members.iter().filter(|member| !member.learner && member.name.is_some()).count();
    if voters != servers.len() || summary.members.len() != servers.len() {
        out.push(format!(
            "etcd has {} members, {voters} of them voters; wanted {}",
            summary.members.len(),
            servers.len()
        ));
    }
    if summary.leader.is_none() {
        out.push("etcd has no leader".into());
    }
    let seen: Vec<_> = answer
        .machines
        .iter()
        .filter(|machine| servers.contains(&*machine.name))
        .filter_map(|machine| machine.evidence()?.etcd)
        .collect();
    let leaders: BTreeSet<Option<u64>> = seen.iter().map(|etcd| etcd.leader).collect();
    if leaders.len() != 1 || leaders.contains(&None) {
        out.push(format!("the servers name {} leaders: {leaders:?}", leaders.len()));
    }
    let clusters: BTreeSet<Option<u64>> = seen.iter().map(|etcd| etcd.cluster_id).collect();
    if clusters.len() != 1 || clusters.contains(&None) {
        out.push(format!("the servers are in {} clusters: {clusters:?}", clusters.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wanted(name: &str, class: &str, role: &str) -> Declared {
        Declared {
            name: name.into(),
            class: class.into(),
            role: role.into(),
            mac: vec![],
            serial: None,
            sandbox: None,
        }
    }

    fn fleet() -> Vec<Declared> {
        vec![
            wanted("a", "mini-pc", "server"),
            wanted("w", "mini-pc", "worker"),
            wanted("g", "rtx-host", "worker"),
        ]
    }

    fn good() -> Value {
        let kata = json!({"version": "4", "files": true, "kvm": false, "in_place_ms": 100, "handler": true});
        let k3s = json!({"version": "v1", "unit": "active", "restarts": 0, "started_ms": 200});
        let node = |taints: Value| json!({"name": "x", "ready": true, "taints": taints, "labels": []});
        json!({
            "source": "provisioner",
            "machines": [
                {"name": "a", "role": "server", "state": "ready", "evidence": {"k3s": k3s, "kata": kata, "node": node(json!([])),
                  "etcd": {"voter": true, "leader": 7, "member_id": 7, "cluster_id": 18446744073709551615_u64}}},
                {"name": "w", "role": "worker", "state": "ready", "evidence": {"k3s": k3s, "kata": kata, "node": node(json!([]))}},
                {"name": "g", "role": "worker", "state": "ready", "evidence": {"k3s": k3s, "node": node(json!([GPU_TAINT]))}},
            ],
            "etcd": {"members": [{"name": "a-12345678", "id": "7", "learner": false}], "leader": "a-12345678", "cluster_id": "18446744073709551615"},
        })
    }

    fn found(answer: Value) -> Vec<String> {
        findings(&fleet(), &serde_json::from_value(answer).unwrap())
    }

    #[test]
    fn a_good_cluster_has_no_findings() {
        assert_eq!(found(good()), Vec::<String>::new());
    }

    #[test]
    fn kata_after_k3s_is_found() {
        let mut answer = good();
        answer["machines"][1]["evidence"]["kata"]["in_place_ms"] = json!(300);
        assert_eq!(found(answer), ["w: Kata came at 300 ms, after k3s at 200 ms"]);
    }

    #[test]
    fn a_missing_taint_is_found() {
        let mut answer = good();
        answer["machines"][2]["evidence"]["node"]["taints"] = json!([]);
        assert_eq!(found(answer), [format!("g: its Node lacks the taint {GPU_TAINT}")]);
    }

    #[test]
    fn a_learner_is_no_voter() {
        let mut answer = good();
        answer["etcd"]["members"][0]["learner"] = json!(true);
        answer["machines"][0]["evidence"]["etcd"]["voter"] = json!(false);
        assert_eq!(found(answer).len(), 2);
    }

    #[test]
    fn an_empty_answer_is_all_findings_and_no_panic() {
        assert!(found(json!({})).len() >= 4);
    }
}
