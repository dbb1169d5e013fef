//! Three servers and a worker, started at once, become one cluster; and stay one through cold starts and losses.
//! k3s is the stand-in; the agent, the gate and the unit files are the real ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node_lab;

use muster_agent::node::probe::Prober;
use muster_agent::state::Root;
use muster_protocol::etcd::GateRecord;
use muster_protocol::ids::{Digest, NodeName};
use muster_protocol::lan::{MAX_PACKET, PORT, Packet, Question};
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::status::State;
use muster_protocol::wire;
use node_lab::provisioner::{Provisioner, Seen, is_ready};
use node_lab::{CLUSTER, Lab, address, in_hub, in_node, key, name, operator};
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(300);
const NODES: [u8; 4] = [1, 2, 3, 4];

#[test]
fn started_at_once_they_become_one_cluster_and_come_back_without_a_provisioner() {
    let Some(mut lab) = Lab::new(4) else { return };
    let provisioner = Provisioner::start(&lab);
    NODES.into_iter().for_each(|n| lab.power_on(n));
    provisioner.wait("all nodes to be ready", LIMIT, |seen| NODES.iter().all(|n| is_ready(seen, *n)));

    // One identity, three voters, and each server's own record says so.
    provisioner.with(|seen| {
        let identities: BTreeSet<String> = (1..=3)
            .map(|n| {
                let server = seen.last[&name(n)].server.as_ref().unwrap();
                let GateRecord::Member { identity, .. } = &server.record else {
                    panic!("{:?}", server.record)
                };
                assert_eq!(server.own.as_ref().unwrap().members.as_ref().unwrap().len(), 3);
                format!("{identity:?}")
            })
            .collect();
        assert_eq!(identities.len(), 1);
        for n in NODES {
            let evidence = &seen.last[&name(n)].status.evidence;
            let kata = evidence.kata.as_ref().unwrap();
            assert!(kata.files && kata.handler, "{kata:?}");
            let stages = &seen.last[&name(n)].status.stages;
            let at = |step: &str| stages.iter().position(|stage| stage.step == step).unwrap();
            assert!(at("kata") < at("k3s") && at("k3s") < at("joined") && at("joined") < at("ready"));
        }
    });
    provisioner.wait("the snapshot's result", LIMIT, |seen| !seen.results.is_empty());
    provisioner.with(|seen| assert!(seen.results.iter().all(Result::is_ok), "{:?}", seen.results));
    NODES.into_iter().for_each(|n| assert_eq!(lab.starts(n), 1, "node {n} started k3s once: {}", lab.logs()));
    no_secret_where_it_does_not_belong(&lab);
    wait_on_the_lan("the LAN to answer", &NODES);

    // Everything goes dark; everything comes back with the provisioner away, and the LAN says so. Nobody makes a cluster.
    NODES.into_iter().for_each(|n| lab.power_off(n));
    provisioner.with(|seen| (seen.granting, seen.away) = (false, true));
    NODES.into_iter().for_each(|n| lab.power_on(n));
    wait_on_the_lan("all nodes to be ready without a provisioner", &NODES);
    for n in NODES {
        let config = std::fs::read_to_string(lab.root(n).join("etc/rancher/k3s/config.yaml")).unwrap();
        assert!(!config.contains("cluster-init"));
    }
    provisioner.with(|seen| {
        seen.away = false;
        seen.last.clear();
    });

    // A server whose data is gone does not start at all: neither as a new cluster nor by itself into the old one.
    lab.power_off(3);
    std::fs::remove_dir_all(lab.root(3).join("var/lib/rancher/k3s/server")).unwrap();
    let starts = lab.starts(3);
    provisioner.with(|seen| drop(seen.last.remove(&name(3))));
    lab.power_on(3);
    provisioner.wait("the wiped server to say why it does not start", LIMIT, |seen| {
        seen.last.get(&name(3)).is_some_and(|request| {
            request.wants_grant
                && request.status.reasons.iter().any(|reason| reason.contains("datastore is gone"))
        })
    });
    assert_eq!(lab.starts(3), starts);
    provisioner.wait("the others to stay ready", LIMIT, |seen| is_ready(seen, 1) && is_ready(seen, 2));
}

#[test]
fn a_joiner_that_died_goes_on_with_its_disk_and_a_removed_member_joins_anew_under_a_grant() {
    let Some(mut lab) = Lab::new(3) else { return };
    let provisioner = Provisioner::start(&lab);
    (1..=3).for_each(|n| lab.power_on(n));
    // The joiner dies the moment it is listed, whatever it is by then.
    let is_listed = |seen: &Seen| {
        let own = seen.last.get(&name(1)).and_then(|request| request.server.as_ref()?.own.as_ref());
        own.and_then(|own| own.members.as_ref().ok())
            .is_some_and(|list| list.iter().any(|member| member.peer == Some(address(2))))
    };
    provisioner.wait("the second server to be listed", LIMIT, is_listed);
    lab.power_off(2);
    provisioner.with(|seen| seen.granting = false);
    assert!(lab.root(2).join("var/lib/muster/gate/record").exists());
    if lab.root(2).join("var/lib/rancher/k3s/server/db/etcd/member/wal").exists() {
        // Its data says member: it starts offline, and needs no new grant.
        lab.power_on(2);
        provisioner.wait("the joiner to be ready", LIMIT, |seen| is_ready(seen, 2));
        provisioner.with(|seen| seen.granting = true);
    } else {
        // Nothing was written yet: the same grant is needed again.
        provisioner.with(|seen| seen.granting = true);
        lab.power_on(2);
    }
    provisioner.wait("all servers to be ready", LIMIT, |seen| (1..=3).all(|n| is_ready(seen, n)));

    // Taken out of the list while it was down: it neither comes back by itself nor stays away for ever.
    let identity = identity(&provisioner, 1);
    lab.power_off(3);
    let id = provisioner.with(|seen| {
        let own = seen.last[&name(1)].server.clone().unwrap().own.unwrap();
        own.members.unwrap().into_iter().find(|member| member.peer == Some(address(3))).unwrap().id
    });
    let root = Root::new(lab.root(1));
    let removed = in_node(1, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let prober = Prober::new(root).unwrap();
        let ask = format!("{{\"ID\":\"{id}\"}}");
        runtime.block_on(prober.gateway("/v3/cluster/member/remove", &ask)).unwrap().status
    });
    assert_eq!(removed.join().unwrap(), 200);
    provisioner.with(|seen| drop(seen.last.remove(&name(3))));
    lab.power_on(3);
    provisioner.wait("the removed server to ask for a grant", LIMIT, |seen| {
        seen.last.get(&name(3)).is_some_and(|request| request.wants_grant)
    });
    let aside = || {
        let server = std::fs::read_dir(lab.root(3).join("var/lib/rancher/k3s/server")).unwrap();
        server.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("db-before-")).count()
    };
    assert_eq!(aside(), 0, "nothing is moved without a grant");
    provisioner.with(|seen| seen.rejoin = Some(3));
    provisioner.wait("the removed server to be ready again", LIMIT, |seen| is_ready(seen, 3));
    assert_eq!(aside(), 1, "its old data was moved, not deleted");
    assert_eq!((self::identity(&provisioner, 1), self::identity(&provisioner, 3)), (identity, identity));
}

fn identity(provisioner: &Provisioner, n: u8) -> muster_protocol::etcd::Identity {
    provisioner.with(|seen| {
        let server = seen.last[&name(n)].server.as_ref().unwrap();
        let GateRecord::Member { identity, .. } = server.record else { panic!("{:?}", server.record) };
        identity
    })
}

/// Asks the LAN until all of these say that they are ready.
fn wait_on_the_lan(what: &str, nodes: &[u8]) {
    let until = Instant::now() + LIMIT;
    loop {
        let answered = in_hub(ask_the_lan).join().unwrap();
        if nodes.iter().all(|n| answered.get(&name(*n)) == Some(&State::Ready)) {
            return;
        }
        assert!(Instant::now() < until, "waited for {what}; last: {answered:?}");
    }
}

/// What is answered to one broadcast question within two seconds.
fn ask_the_lan() -> BTreeMap<NodeName, State> {
    let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&Digest::of(&now.as_nanos().to_le_bytes()).0[..16]);
    let question = Question {
        nonce,
        operator: operator().public().fingerprint(),
        asked_at_ms: u64::try_from(now.as_millis()).unwrap(),
        fleet: 4,
        padding: vec![0; 700],
    };
    let ask = wire::encode(&Packet::Ask(Signed::by_key(CLUSTER, &operator(), &question)));
    socket.send_to(&ask, ("10.77.0.255", PORT)).unwrap();
    let mut answered = BTreeMap::new();
    let mut buffer = [0; MAX_PACKET];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        assert!(length <= ask.len());
        let Packet::Answer { node, brief } = wire::decode(&buffer[..length]).unwrap() else {
            panic!("an answer")
        };
        let key = (1..=9).find(|n| name(*n) == node).map(key).unwrap().public();
        let brief = brief.verify(By::Key(CLUSTER, &key), &Listener::default()).unwrap().into_inner();
        assert_eq!(brief.nonce, nonce);
        answered.insert(node, brief.state);
    }
    answered
}

/// The passwords lie in tmpfs for k3s, in k3s's own folders, and nowhere else; a worker holds no byte of the server's.
fn no_secret_where_it_does_not_belong(lab: &Lab) {
    let token = std::fs::read_to_string(lab.root(1).join("run/muster/token")).unwrap();
    let agent = std::fs::read_to_string(lab.root(1).join("run/muster/agent-token")).unwrap();
    let server = token.trim().rsplit(':').next().unwrap().to_owned();
    assert!(server.len() >= 64 && agent.trim().len() >= 64);
    for n in NODES {
        let root = lab.root(n);
        for found in files_with(&root, server.as_bytes()) {
            let below = found.strip_prefix(&root).unwrap();
            let own = below.starts_with("var/lib/rancher") || below == Path::new("run/muster/token");
            assert!(n <= 3 && own, "the server token is in {}", found.display());
        }
        for found in files_with(&root, agent.trim().as_bytes()) {
            let below = found.strip_prefix(&root).unwrap();
            let own = below.starts_with("var/lib/rancher") || below.starts_with("run/muster");
            assert!(own, "the agent token is in {}", found.display());
        }
    }
}

fn files_with(folder: &Path, text: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(facts) = path.symlink_metadata() else { continue };
        if facts.is_dir() {
            found.extend(files_with(&path, text));
        // Larger ones are programs, and etcd's own log in k3s's folder.
        } else if facts.is_file() && facts.len() <= 1 << 20 {
            // A file may be renamed away while we look.
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text) {
                found.push(path);
            }
        }
    }
    found
}
