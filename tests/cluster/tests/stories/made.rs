//! Made by itself; gone dark and damaged while its provisioner is away; a member that was taken out; a store that is lost.

use crate::home::Home;
use crate::lab::Lab;
use crate::machine::name;
use crate::parts::Parts;
use crate::question;
use muster_agent::node::gate::GRANT;
use muster_protocol::status::State;
use std::fs;
use std::path::{Path, PathBuf};

const SERVER: &str = "var/lib/rancher/k3s/server";
const RECORD: &str = "var/lib/muster/gate/record";
const CONFIG: &str = "etc/rancher/k3s/config.yaml";
const CLASS: &str = "kata-qemu-runtime-rs";

#[test]
fn a_cluster_is_made_once_and_never_again() {
    let Some(mut lab) = Lab::new('a', 4) else { return };
    let before = lab.folder().join("store-before-the-cluster");
    lab.home.kill_9();
    fs::copy(lab.home.store(), &before).unwrap();
    lab.home.serve();

    servers_that_start_at_once_join_one_by_one(&mut lab);
    alone_only_what_is_a_member_starts(&mut lab);
    a_removed_member_is_none_until_it_joins_anew(&mut lab);
    a_lost_store_makes_no_second_cluster(&mut lab, &before);
    lab.nothing_went_wrong();
}

fn servers_that_start_at_once_join_one_by_one(lab: &mut Lab) {
    (1..=4).for_each(|n| lab.power_on(n));
    lab.wait("three servers that started at once are voters", Lab::three_voters);
    lab.wait("all four are ready", |lab| (1..=4).all(|n| lab.is_ready(n)));
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
    for n in 1..=4 {
        assert_eq!(lab.starts(n), 1, "{} started k3s once", name(n));
        let status = lab.status(n).unwrap();
        let kata = status.evidence.kata.unwrap();
        assert!(kata.files && kata.handler, "{kata:?}");
        let at = |step: &str| status.stages.iter().position(|stage| stage.step == step).unwrap();
        assert!(at("kata") < at("k3s") && at("k3s") < at("joined") && at("joined") < at("ready"));
    }
    let events = lab.home.events();
    let told = |what: &str| events.iter().filter(|event| event.contains(what)).count();
    assert_eq!((told("made the cluster"), told("may join"), told("is a voter")), (1, 2, 2), "{events:#?}");
    what_is_declared_is_put_there_and_put_back(lab);
    no_secret_where_it_does_not_belong(lab);
    wait_on_the_lan(lab, "the LAN says so, too");
    let metrics = lab.home.must(&["node", "metrics", name(1).as_str()]);
    assert!(metrics.contains("muster_node_state{state=\"ready\"} 1\n"), "{metrics}");
    lab.nothing_went_wrong();
}

/// By signed commands, which a server's agent runs: the RuntimeClass, and a label that somebody changed. What somebody else
/// put on a Node is left alone, and no fault. A RuntimeClass that somebody deletes is put back, too, but not within a minute
/// of the last time: a later chapter waits for it.
fn what_is_declared_is_put_there_and_put_back(lab: &Lab) {
    lab.wait("the RuntimeClass is there", has_class);
    let node = name(4).to_string();
    lab.machine(1).kubectl(&["delete", "runtimeclass", CLASS]).unwrap();
    assert!(!has_class(lab), "it is gone");
    let (ours, theirs) = ("katacontainers.io/kata-runtime", "mine=yes");
    let changed = ["label", "node", &node, "--overwrite", &format!("{ours}=false"), theirs];
    lab.machine(1).kubectl(&changed).unwrap();
    lab.machine(1).kubectl(&["taint", "node", &node, "maintenance=now:NoSchedule"]).unwrap();
    lab.wait("the label is as declared again", |lab| {
        let node = lab.machine(1).kubectl(&["get", "node", &node, "-o", "json"]).unwrap_or_default();
        let node: serde_json::Value = serde_json::from_str(&node).unwrap_or_default();
        let label = |key: &str| node["metadata"]["labels"][key].as_str();
        label(ours) == Some("true") && label("mine") == Some("yes")
    });
    let taints = |lab: &Lab| lab.status(4).and_then(|status| status.evidence.node).map(|node| node.taints);
    lab.wait("the taint is seen", |lab| taints(lab) == Some(vec!["maintenance=now:NoSchedule".into()]));
    assert!(lab.is_ready(4), "a taint that nobody declared is a person's own");
}

fn has_class(lab: &Lab) -> bool {
    lab.machine(1).kubectl(&["get", "runtimeclass", CLASS, "-o", "name"]).is_some()
}

/// The provisioner is away, everything goes dark. The first server comes back wiped with its old configuration, the second
/// with a tombstone, the third with a SQLite file: for k3s a new cluster, a rejoin, and a migration. Nothing starts.
/// Then all three have their disks again, and start.
fn alone_only_what_is_a_member_starts(lab: &mut Lab) {
    lab.home.kill_9();
    (1..=4).for_each(|n| lab.power_off(n));
    let path = |n: u8, below: &str| lab.machine(n).path(below);
    let (tombstone, sqlite) = (path(2, SERVER).join("db/etcd/tombstone"), path(3, SERVER).join("db"));
    let lines = fs::read_to_string(path(1, CONFIG)).unwrap();
    let old = lines.lines().filter(|line| !line.starts_with("server:") && !line.starts_with("cluster-init"));
    fs::write(
        path(1, CONFIG),
        old.map(|line| format!("{line}\n")).collect::<String>() + "cluster-init: true\n",
    )
    .unwrap();
    lab.machine(1).rename(SERVER, "kept");
    fs::write(&tombstone, "").unwrap();
    fs::rename(&sqlite, path(3, "kept")).unwrap();
    fs::create_dir(&sqlite).unwrap();
    fs::write(sqlite.join("state.db"), "").unwrap();

    let why = [(1, "its datastore is gone"), (2, "(tombstone)"), (3, "a SQLite datastore")];
    let counts = |lab: &Lab| -> Vec<(usize, usize)> {
        why.iter().map(|(n, why)| (lab.starts(*n), lab.machine(*n).said(why))).collect()
    };
    let before = counts(lab);
    (1..=3).for_each(|n| lab.power_on(n));
    lab.wait("each says why it does not start", |lab| why.iter().all(|(n, why)| lab.says(*n, why)));
    (1..=3).for_each(|n| lab.machine(n).start_by_hand());
    lab.wait("the gate refuses each, again and again", |lab| {
        counts(lab).iter().zip(&before).all(|((_, now), (_, before))| *now >= before + 2)
    });
    for ((n, _), (after, before)) in why.iter().zip(counts(lab).iter().zip(&before)) {
        assert_eq!(after.0, before.0, "{} did not start k3s", name(*n));
        assert_eq!(lab.own(*n), None, "and no etcd answers there");
    }

    (1..=3).for_each(|n| lab.power_off(n));
    lab.machine(1).rename("kept", SERVER);
    fs::remove_file(tombstone).unwrap();
    fs::remove_dir_all(&sqlite).unwrap();
    fs::rename(lab.machine(3).path("kept"), sqlite).unwrap();
    (1..=4).for_each(|n| lab.power_on(n));
    lab.wait("a cold start with nobody to ask", Lab::three_voters);
    wait_on_the_lan(lab, "the LAN says that all are ready");
    for n in 1..=3 {
        assert_eq!(lab.starts(n), before[usize::from(n) - 1].0 + 1);
        assert!(!fs::read_to_string(lab.machine(n).path(CONFIG)).unwrap().contains("cluster-init"));
    }
}

/// Taken out while it was down, it starts as what its disk says and never becomes a member. When the provisioner is back it
/// joins under a grant; as a learner it makes no progress and is evicted by the leader's k3s; what real k3s would do then,
/// rejoin by itself, the gate does not let it do: it joins anew under the next grant.
fn a_removed_member_is_none_until_it_joins_anew(lab: &mut Lab) {
    lab.power_off(3);
    lab.remove_member(1, 3);
    let (starts, asides) = (lab.starts(3), asides(lab));
    lab.power_on(3);
    lab.wait("it starts, and says that it was removed", |lab| {
        lab.starts(3) > starts && lab.says(3, "was removed from the cluster")
    });
    lab.wait("the others are the cluster", |lab| lab.voters(&[1, 2]));
    assert_eq!(lab.starts(3), starts + 1, "its disk lets it start");
    assert!(asides.is_empty() && self::asides(lab).is_empty(), "nothing is moved without a grant");

    lab.trap(&[1, 2], Some("learner-stalls"));
    lab.home.serve();
    lab.wait("it is a learner", |lab| {
        lab.listed(1, 3).is_some_and(|member| member.learner && member.name.is_some())
    });
    let evicted = format!("Removed learner {}-", name(3));
    lab.wait("the leader's k3s evicts it", |lab| [1, 2].iter().any(|n| lab.machine(*n).said(&evicted) > 0));
    lab.trap(&[1, 2], None);
    lab.wait("three voters again, with no hand", Lab::three_voters);
    lab.wait("it is ready", |lab| lab.is_ready(3));
    lab.wait("the lock is free", |lab| lab.home.lock().is_none());
    lab.wait("the RuntimeClass that somebody deleted is there again", has_class);
    let by_itself = lab.machine(3).said(k3s_model::texts::TOMBSTONE_REJOIN);
    assert_eq!(by_itself, 0, "it never rejoined by itself");
    // Not by its tombstone: asked for its status in the moment of its removal, etcd 3.5 panics ("failed to find local ID"),
    // and k3s starts once more as what its disk says.
    assert_eq!(self::asides(lab).len(), 2, "both earlier lives are kept");
}

/// The store is deleted, `init` is called again, an old copy is put back by hand; and the first server's disk is blank, so
/// that its gate would follow a grant to make a cluster.
fn a_lost_store_makes_no_second_cluster(lab: &mut Lab, before: &Path) {
    lab.home.kill_9();
    let newest = lab.folder().join("store-newest");
    fs::rename(lab.home.store(), &newest).unwrap();
    lab.power_off(1);
    lab.machine(1).rename(SERVER, "kept");
    lab.machine(1).rename(RECORD, "kept-record");
    let starts = lab.starts(1);
    lab.power_on(1);

    let told = lab.home.refused(&["serve"]);
    assert!(told.contains("put the newest copy of this file back"), "{told}");
    let told = lab.home.refused(&["init"]);
    assert!(told.contains("put the newest copy of `store.redb` back"), "{told}");

    let elsewhere = lab.folder().join("muster-again");
    let mut second = Home::founded(elsewhere, &Parts::found().unwrap(), lab.hub().clone(), 4);
    second.serve();
    lab.wait("nobody believes another cluster's provisioner", |lab| {
        (1..=3).all(|n| lab.machine(n).warned("is not the peer it should be"))
    });
    let picture = second.json(&["status", "-o", "json"]);
    assert_eq!(picture["cluster"]["state"], "none", "{picture}");
    drop(second);

    fs::copy(before, lab.home.store()).unwrap();
    lab.home.serve();
    lab.wait("the old copy is known for what it is", |lab| {
        let picture = lab.home.json(&["status", "-o", "json"]);
        let blank = picture["machines"][0]["reasons"].to_string();
        picture["cluster"]["frozen"].as_str().is_some_and(|why| why.contains("put the newest copy"))
            && blank.contains("old copy")
    });
    for way in ["--without", "--abandon"] {
        let told = lab.home.refused(&["cluster", "init", way, name(2).as_str(), "--confirm", "lab"]);
        assert!(told.contains("put the newest copy of store.redb back"), "{told}");
    }
    let rounds = lab.status(1).unwrap().sequence;
    lab.wait("the blank server asks in vain", |lab| {
        lab.status(1).is_some_and(|status| status.sequence >= rounds + 5) && lab.says(1, "no grant")
    });
    let picture = lab.home.json(&["status", "-o", "json"]);
    assert_eq!((&picture["cluster"]["state"], picture["cluster"]["lock"].as_str()), (&"none".into(), None));
    assert!(!lab.machine(1).root().exists(GRANT), "it got no grant");
    assert_eq!(lab.starts(1), starts, "and did not start k3s");
    lab.wait("the others carry on", |lab| lab.carry_on(&[2, 3]));

    lab.home.kill_9();
    fs::copy(newest, lab.home.store()).unwrap();
    lab.power_off(1);
    lab.machine(1).rename("kept", SERVER);
    lab.machine(1).rename("kept-record", RECORD);
    lab.home.serve();
    lab.power_on(1);
    lab.wait("with the newest copy all is as it was", Lab::three_voters);
    lab.wait("all are ready", |lab| (1..=4).all(|n| lab.is_ready(n)));
    assert_eq!(lab.home.json(&["status", "-o", "json"])["cluster"]["frozen"].as_str(), None);
}

/// What was moved out of k3s's sight on the third server.
fn asides(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.machine(3).path(SERVER)).unwrap().flatten();
    let aside = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("db-before-");
    entries.map(|entry| entry.path()).filter(aside).collect()
}

/// Asks the LAN until all four say that they are ready.
fn wait_on_the_lan(lab: &Lab, what: &str) {
    let operator = lab.home.operator();
    lab.wait(what, |lab| {
        let answered = question::ask(lab.hub(), lab.home.trust(), operator.clone());
        (1..=4).all(|n| answered.get(&name(n)) == Some(&State::Ready))
    });
}

/// The passwords lie in tmpfs for k3s, in k3s's own folders, and nowhere else; a worker holds no byte of the server's.
fn no_secret_where_it_does_not_belong(lab: &Lab) {
    let read = |path: &str| fs::read_to_string(lab.machine(1).path(path)).unwrap().trim().to_owned();
    let agent = read("run/muster/agent-token");
    let server = read("run/muster/token").rsplit(':').next().unwrap().to_owned();
    assert!(server.len() >= 64 && agent.len() >= 64);
    for n in 1..=4 {
        let root = lab.machine(n).path("");
        for found in files_with(&root, server.as_bytes()) {
            let below = found.strip_prefix(&root).unwrap();
            let own = below.starts_with("var/lib/rancher") || below == Path::new("run/muster/token");
            assert!(n <= 3 && own, "the server token is in {}", found.display());
        }
        for found in files_with(&root, agent.as_bytes()) {
            let below = found.strip_prefix(&root).unwrap();
            let own = below.starts_with("var/lib/rancher") || below.starts_with("run/muster");
            assert!(own, "the agent token is in {}", found.display());
        }
    }
    for secret in [server, agent] {
        let held = files_with(&lab.folder().join("muster"), secret.as_bytes());
        assert!(held.is_empty(), "the provisioner holds a token in clear: {held:?}");
    }
}

fn files_with(folder: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(facts) = path.symlink_metadata() else { continue };
        if facts.is_dir() {
            found.extend(files_with(&path, text));
        // Larger ones are programs, and etcd's own log in k3s's folder.
        } else if facts.is_file() && facts.len() <= 4 << 20 {
            // A file may be renamed away while we look.
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text) {
                found.push(path);
            }
        }
    }
    found
}
