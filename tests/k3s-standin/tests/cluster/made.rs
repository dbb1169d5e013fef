//! Three servers and a worker: every port, verb and file as it was recorded from the real thing.

use crate::lab::{Lab, address, name, wait_for};
use crate::{LONG, first, joins};
use k3s_model::texts;
use serde_json::Value;

#[test]
fn three_servers_and_a_worker_are_made_used_and_repaired() {
    let Some(mut lab) = Lab::new(4) else { return };
    first(&mut lab);
    for n in [2, 3] {
        joins(&mut lab, n);
        lab.wait_ready(n, LONG);
    }
    for n in [1, 2, 3] {
        lab.wait_members(n, &["mini-pc-1", "mini-pc-2", "mini-pc-3"], LONG);
        assert_eq!(lab.identity(n), lab.identity(1));
    }

    the_ports_answer_as_recorded(&lab);
    a_worker_joins_with_the_agent_token_alone(&mut lab);
    the_verbs_do_what_they_say(&lab);
    snapshots_are_saved_and_listed(&lab);

    // server 3's machine dies; its Node is deleted; then it comes back with its old data, and then wiped
    lab.power_off(3);
    assert_eq!(lab.said(1, "delete node mini-pc-3 --timeout=120s"), "node \"mini-pc-3\" deleted");
    for n in [1, 2] {
        lab.wait_members(n, &["mini-pc-1", "mini-pc-2"], LONG);
    }
    lab.start(3, "server");
    lab.wait_log(3, texts::DATA_DIR_MUST_GO, LONG);
    assert!(!lab.data(3).join("server/db/etcd/tombstone").exists());
    wait_for("the removed member's health", LONG, || {
        lab.curl(3, &["http://127.0.0.1:2381/health"]).1.trim()
            == include_str!("../../fixtures/health-2381-no-leader.json").trim()
    });
    let no_list = format!("Internal error occurred: {}: {}", texts::MEMBER_LIST_FAILED, texts::DEADLINE);
    assert_eq!(lab.db_info(3), Err((500, no_list)));
    assert_eq!(lab.ctl(3, "status")["restarts"], 0, "the process stays");
    lab.power_off(3);
    lab.wipe(3);
    lab.start(3, "server");
    lab.wait_ready(3, LONG);
    lab.wait_members(1, &["mini-pc-1", "mini-pc-2", "mini-pc-3"], LONG);

    // all three lose power at once and come back, naming each other in a ring, without cluster-init
    for n in [1, 2, 3] {
        lab.power_off(n);
    }
    let token = lab.token(1, "token");
    for (n, via) in [(1, 2), (2, 3), (3, 1)] {
        let via = address(via);
        lab.config(n, &format!("server: https://{via}:6443\ntoken: {token}\nsecrets-encryption: true\n"));
        lab.start(n, "server");
    }
    for n in [1, 2, 3] {
        lab.wait_ready(n, LONG);
    }
}

fn the_ports_answer_as_recorded(lab: &Lab) {
    let remote = |path: &str| format!("https://{}:6443{path}", address(1));
    let recorded =
        include_str!("../../fixtures/db-info/403-remote-without-credentials.http").replace('\r', "");
    let body = recorded.split_once("\n\n").unwrap().1.trim();
    assert_eq!(lab.curl(2, &[&remote("/db/info")]), (403, body.to_owned()));
    let token = k3s_model::token::Token::parse(&lab.token(1, "token")).unwrap();
    let credentials = format!("server:{}", token.password);
    assert_eq!(lab.curl(2, &["-u", &credentials, &remote("/db/info")]).0, 200);
    assert_eq!(lab.curl(2, &["-u", "server:wrong", &remote("/v1-k3s/server-bootstrap")]).0, 403);
    assert_eq!(lab.curl(2, &[&remote("/ping")]), (200, "pong".to_owned()));
    assert_eq!(lab.curl(2, &[&remote("/readyz")]).0, 401);
    let (_, ca) = lab.curl(2, &[&remote("/cacerts")]);
    let hash = k3s_standin::base::pki::ca_hash(ca.as_bytes());
    assert_eq!(token.ca, Some(k3s_model::ids::CaHash(hash)));

    let recorded: Value =
        serde_json::from_str(include_str!("../../fixtures/gateway/member-list.json")).unwrap();
    let (_, list) = lab.gateway(1, "/v3/cluster/member/list", "{}");
    assert_eq!(keys(&list["members"][0]), keys(&recorded["members"][0]));
    // etcd 3.5 says less than 3.6 in its status, and nothing else is missing
    let recorded = include_str!("../../fixtures/gateway/status-three-voters.ndjson").lines().next().unwrap();
    let recorded: Value = serde_json::from_str(recorded).unwrap();
    let (_, status) = lab.gateway(1, "/v3/maintenance/status", "{}");
    let missing: Vec<&String> =
        keys(&recorded).into_iter().filter(|k| status[k.as_str()].is_null()).collect();
    assert_eq!(missing, ["dbSizeQuota", "downgradeInfo", "storageVersion"]);
    let recorded: Value =
        serde_json::from_str(include_str!("../../fixtures/gateway/alarm-none.json")).unwrap();
    assert_eq!(keys(&lab.gateway(1, "/v3/maintenance/alarm", "{\"action\":\"GET\"}").1), keys(&recorded));
    // leadership there and back, each time asked of the leader
    let id = |n| {
        lab.gateway(n, "/v3/maintenance/status", "{}").1["header"]["member_id"].as_str().unwrap().to_owned()
    };
    let leader =
        |n: usize| lab.gateway(n, "/v3/maintenance/status", "{}").1["leader"].as_str().map(str::to_owned);
    assert_eq!(leader(1), Some(id(1)));
    for (from, to) in [(1, 2), (2, 1)] {
        let body = format!("{{\"targetID\":\"{}\"}}", id(to));
        assert_eq!(lab.gateway(from, "/v3/maintenance/transfer-leadership", &body).0, 200);
        wait_for("the new leader", LONG, || leader(from) == Some(id(to)));
    }
    let (status, missing) = lab.gateway(1, "/v3/cluster/member/remove", "{\"ID\":\"1\"}");
    let recorded: Value =
        serde_json::from_str(include_str!("../../fixtures/gateway/member-remove-not-found.json")).unwrap();
    assert_eq!((status, missing), (404, recorded));
    assert_eq!(
        lab.curl(1, &["http://127.0.0.1:2381/health"]).1.trim(),
        include_str!("../../fixtures/health-2381.json").trim()
    );
    let (_, metrics) = lab.curl(1, &["http://127.0.0.1:2381/metrics"]);
    for line in ["etcd_server_has_leader 1", "etcd_server_is_learner 0", "etcd_network_active_peers{Local="] {
        assert!(metrics.contains(line), "{line}");
    }
    let checks = lab.said(1, "get --raw /readyz?verbose");
    let recorded = include_str!("../../fixtures/readyz-verbose.txt");
    let ours: Vec<&str> = checks.lines().filter(|l| !recorded.lines().any(|r| r == *l)).collect();
    assert_eq!(ours, ["[+]stand-in: only etcd and etcd-readiness are looked at ok"]);
}

fn keys(value: &Value) -> Vec<&String> {
    value.as_object().unwrap().keys().collect()
}

fn a_worker_joins_with_the_agent_token_alone(lab: &mut Lab) {
    let token = lab.token(1, "agent-token");
    let config = |label: &str, password: &str| {
        format!(
            "server: https://{}:6443\ntoken: {}\nnode-label: [muster.dev/class=mini-pc{label}]\nnode-taint: [nvidia.com/gpu=present:NoSchedule]\n",
            address(1),
            token.replace("agentonly", password)
        )
    };
    let kata = lab.data(4).join("agent/etc/containerd/config-v3.toml.d/kata.toml");
    std::fs::create_dir_all(kata.parent().unwrap()).unwrap();
    let drop_in = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu]\nruntime_type = \"io.containerd.kata-qemu.v2\"\n";
    std::fs::write(&kata, format!("{drop_in}{drop_in}")).unwrap();
    lab.config(4, &config("", "agentonly"));
    lab.start(4, "agent");
    lab.wait_log(4, texts::CONTAINERD_EXITED, LONG);
    std::fs::write(&kata, drop_in).unwrap();
    lab.wait_ready(4, LONG);
    let node: Value = serde_json::from_str(&lab.said(2, "get node mini-pc-4 -o json")).unwrap();
    let handlers = node["status"]["runtimeHandlers"].as_array().unwrap();
    assert!(handlers.iter().any(|h| h["name"] == "kata-qemu"));
    assert_eq!(node["spec"]["taints"][0]["key"], "nvidia.com/gpu");
    assert!(node["metadata"]["labels"]["node-role.kubernetes.io/etcd"].is_null());
    let state = lab.data(4).join("agent/etc/k3s-agent-load-balancer.json");
    wait_for("three servers in the balancer's list", LONG, || {
        let state: Value = std::fs::read_to_string(&state)
            .ok()
            .and_then(|t| serde_json::from_str(&t).ok())
            .unwrap_or_default();
        state["ServerAddresses"].as_array().is_some_and(|a| a.len() == 3)
    });
    // reinstalled with another node password: refused for ever, the process stays
    lab.power_off(4);
    std::fs::remove_dir_all(lab.data(4)).unwrap();
    let password = lab.root(4).join("etc/rancher/node/password");
    let kept = std::fs::read_to_string(&password).unwrap();
    std::fs::write(&password, "0".repeat(32)).unwrap();
    lab.start(4, "agent");
    lab.wait_log(4, texts::NODE_PASSWORD_REJECTED, LONG);
    // with its own again: back, under the Node that is there
    std::fs::write(&password, kept).unwrap();
    lab.ctl(4, "restart");
    lab.wait_ready(4, LONG);
}

fn the_verbs_do_what_they_say(lab: &Lab) {
    let node = |path: &str| -> Value {
        let node: Value = serde_json::from_str(&lab.said(1, "get node mini-pc-4 -o json")).unwrap();
        node.pointer(path).cloned().unwrap_or_default()
    };
    assert_eq!(lab.said(1, "cordon mini-pc-4"), "node/mini-pc-4 cordoned");
    assert_eq!(node("/spec/unschedulable"), true);
    let drained = lab.said(1, "drain mini-pc-4 --ignore-daemonsets --delete-emptydir-data --timeout=5m");
    assert_eq!(drained, "node/mini-pc-4 already cordoned\nnode/mini-pc-4 drained");
    assert_eq!(lab.said(1, "uncordon mini-pc-4"), "node/mini-pc-4 uncordoned");
    assert_eq!(node("/spec/unschedulable"), Value::Null);
    lab.said(2, "taint node mini-pc-4 nvidia.com/gpu=absent:NoSchedule --overwrite");
    assert_eq!(node("/spec/taints/0/value"), "absent");
    lab.said(2, "taint node mini-pc-4 nvidia.com/gpu:NoSchedule-");
    assert_eq!(node("/spec/taints"), Value::Null);
    lab.said(2, "label node mini-pc-4 muster.dev/class=rtx-host --overwrite");
    assert_eq!(node("/metadata/labels/muster.dev~1class"), "rtx-host");

    let file = lab.dir.join("runtimeclass.yaml");
    std::fs::write(
        &file,
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: kata\nhandler: kata-qemu\n",
    )
    .unwrap();
    let apply = format!("apply --server-side --force-conflicts --field-manager=muster -f {}", file.display());
    assert_eq!(lab.said(1, &apply), "runtimeclass.node.k8s.io/kata serverside-applied");
    lab.said(3, &apply);
    let class: Value = serde_json::from_str(&lab.said(3, "get runtimeclass kata -o json")).unwrap();
    assert_eq!(
        (&class["handler"], &class["metadata"]["managedFields"][0]["manager"]),
        (&"kata-qemu".into(), &"muster".into())
    );
    let listed = || -> Value {
        let list = lab.said(2, "get --raw /apis/node.k8s.io/v1/runtimeclasses");
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(
            (&list["kind"], &list["apiVersion"]),
            (&"RuntimeClassList".into(), &"node.k8s.io/v1".into())
        );
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect()
    };
    assert_eq!(listed(), serde_json::json!(["kata"]));
    let deleted = lab.said(1, "delete runtimeclass kata");
    assert_eq!(deleted, "runtimeclass.node.k8s.io \"kata\" deleted");
    assert_eq!(listed(), serde_json::json!([]));
    assert!(!lab.kubectl(3, "get runtimeclass kata").status.success());
    lab.said(3, &apply);
    assert_eq!(
        listed(),
        serde_json::json!(["kata"]),
        "what was applied before it was deleted is applied whole"
    );

    let missing = lab.kubectl(1, "delete node mini-pc-9");
    assert!(!missing.status.success());
    let recorded =
        include_str!("../../fixtures/timelines/delete-node-misses.txt").replace("mini-pc-3", "mini-pc-9");
    assert!(recorded.contains(String::from_utf8_lossy(&missing.stderr).trim()));
}

fn snapshots_are_saved_and_listed(lab: &Lab) {
    let saved = lab.k3s(1, "etcd-snapshot save --name before-change");
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    let list = lab.k3s(1, "etcd-snapshot ls -o json");
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"List".into(), &"v1".into()));
    let item = &list["items"][0];
    assert_eq!(item["kind"], "ETCDSnapshotFile");
    assert_eq!(item["spec"]["nodeName"], name(1));
    assert!(
        item["spec"]["snapshotName"].as_str().unwrap().starts_with(&format!("before-change-{}-", name(1)))
    );
    assert!(item["status"]["size"].as_str().unwrap().parse::<u64>().unwrap() > 16_384);
}
