//! Asking the agents themselves: one signed question over UDP to everybody, the missing again, and by unicast where
//! there is no broadcast; each answer is checked with the key that the roster has for its node.

use super::credential::Credential;
use super::status::now_unix_ms;
use crate::core::picture::{API_VERSION, ClusterPart, EtcdPart, MachinePart, Picture, Versions};
use muster_identity::http::{Client as Http, Response};
use muster_identity::{Expect, Identity, client_config};
use muster_protocol::ids::Cidr;
use muster_protocol::lan::{Brief, MAX_PACKET, PORT, Packet, Question, window};
use muster_protocol::roster::{Member, Roster};
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::status::Status;
use muster_protocol::wire;
use nix::ifaddrs::getifaddrs;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// When the missing are asked again, and when no more answers are waited for.
const ROUNDS: &[Duration] =
    &[Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(1500)];
const FULL: Duration = Duration::from_secs(3);

pub(super) fn picture(credential: &Credential, roster: &Roster, full: bool) -> anyhow::Result<Picture> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let briefs = runtime.block_on(ask(credential, roster))?;
    let statuses = match full {
        true => runtime.block_on(ask_all(credential, roster, &briefs))?,
        false => BTreeMap::new(),
    };
    Ok(put_together(credential, roster, &briefs, &statuses))
}

/// What one node's agent answers to `path` over TLS, wherever on the LAN it is; `None`: it does not answer.
pub(super) fn get(
    credential: &Credential,
    roster: &Roster,
    member: &Member,
    path: &str,
) -> anyhow::Result<Option<Response>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let alone = Roster { nodes: vec![member.clone()], ..roster.clone() };
    let briefs = runtime.block_on(ask(credential, &alone))?;
    let Some((_, from)) = briefs.get(member.name.as_str()) else { return Ok(None) };
    let identity = Identity::operator(credential.trust.cluster, &credential.key)?;
    let response = runtime.block_on(http(&identity, credential, member, *from)?.get(path, FULL))?;
    Ok(Some(response))
}

type Briefs = BTreeMap<String, (Brief, SocketAddr)>;
type Members<'a> = BTreeMap<&'a str, &'a Member>;

async fn ask(credential: &Credential, roster: &Roster) -> anyhow::Result<Briefs> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.set_broadcast(true)?;
    let members = members(roster);
    let networks = networks();
    let mut nonces = Vec::new();
    let mut briefs = Briefs::new();
    let mut buffer = [0; 2048];
    for (round, wait) in ROUNDS.iter().enumerate() {
        let missing: Vec<&Member> =
            roster.nodes.iter().filter(|node| !briefs.contains_key(node.name.as_str())).collect();
        if missing.is_empty() {
            break;
        }
        // An agent takes a nonce once, and the lost packet may have been its answer.
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
        nonces.push(nonce);
        let fleet = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        let question = question(credential, fleet, nonce);
        for address in addressees(&networks, &missing, round == 0) {
            if let Err(error) = socket.send_to(&question, (address, PORT)).await {
                tracing::debug!(%error, %address, "not asked");
            }
        }
        let end = Instant::now() + *wait + window(fleet);
        while briefs.len() < roster.nodes.len()
            && let Ok(received) = timeout_at(end, socket.recv_from(&mut buffer)).await
        {
            // A closed port somewhere is told as an error of this socket; the others may still answer.
            let Ok((length, from)) = received else { continue };
            if let Some(brief) = believe(credential, &members, &nonces, &buffer[..length]) {
                briefs.insert(brief.node.to_string(), (brief, from));
            }
        }
    }
    Ok(briefs)
}

fn members(roster: &Roster) -> Members<'_> {
    roster.nodes.iter().map(|member| (member.name.as_str(), member)).collect()
}

/// As long as the longest answer: an agent never sends more than it was asked with.
fn question(credential: &Credential, fleet: u32, nonce: [u8; 16]) -> Vec<u8> {
    let packet = |padding: usize| {
        let question = Question {
            nonce,
            operator: credential.key.public().fingerprint(),
            asked_at_ms: now_unix_ms(),
            fleet,
            padding: vec![0; padding],
        };
        wire::encode(&Packet::Ask(Signed::by_key(credential.trust.cluster, &credential.key, &question)))
    };
    // The lengths of padding and body grow by at most two bytes each.
    let bare = packet(0).len();
    packet(MAX_PACKET.saturating_sub(bare + 4))
}

/// This computer's own networks.
fn networks() -> Vec<Cidr> {
    let entries = getifaddrs().into_iter().flatten();
    let network = |entry: nix::ifaddrs::InterfaceAddress| {
        let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| Some(storage?.as_sockaddr_in()?.ip());
        Some(Cidr::of_mask(ip(entry.address)?, ip(entry.netmask)?))
    };
    // A link between two has no broadcast (RFC 3021).
    let many = |network: &Cidr| network.prefix < 31 && !network.address.is_loopback();
    entries.filter_map(network).filter(many).collect()
}

/// First every network, and by unicast who is on none of them; then each missing node by its last address, for a
/// network may drop broadcasts. A fleet is not asked twice at once: each question costs an agent a signature.
///
/// A broadcast address is made from the prefix: an address that was set by hand often has none of its own, and the
/// kernel knows this one.
fn addressees(networks: &[Cidr], missing: &[&Member], first: bool) -> BTreeSet<Ipv4Addr> {
    let known = missing.iter().filter_map(|node| node.address);
    if !first {
        return known.collect();
    }
    let far = known.filter(|address| !networks.iter().any(|network| network.contains(*address)));
    far.chain(networks.iter().map(Cidr::broadcast)).chain([Ipv4Addr::BROADCAST]).collect()
}

/// The answer, if the node that it names has signed it, to this question.
fn believe(credential: &Credential, members: &Members, nonces: &[[u8; 16]], bytes: &[u8]) -> Option<Brief> {
    let Packet::Answer { node, brief } = wire::decode(bytes).ok()? else { return None };
    let member = members.get(node.as_str())?;
    let by = By::Key(credential.trust.cluster, &member.key);
    let brief = brief.verify(by, &Listener::default()).ok()?.into_inner();
    (nonces.contains(&brief.nonce) && brief.node == node).then_some(brief)
}

/// The whole status of each node that answered, over TLS.
async fn ask_all(
    credential: &Credential,
    roster: &Roster,
    briefs: &Briefs,
) -> anyhow::Result<BTreeMap<String, Status>> {
    let identity = Identity::operator(credential.trust.cluster, &credential.key)?;
    let mut asked = JoinSet::new();
    for member in &roster.nodes {
        let Some((_, from)) = briefs.get(member.name.as_str()) else { continue };
        let mut http = http(&identity, credential, member, *from)?;
        let (member, cluster) = (member.clone(), credential.trust.cluster);
        asked.spawn(async move {
            let response = http.get("/status", FULL).await.ok().filter(|response| response.status == 200)?;
            let signed: Signed<Status> = wire::decode(&response.body).ok()?;
            let status = signed.verify(By::Key(cluster, &member.key), &Listener::default()).ok()?;
            Some((member.name.to_string(), status.into_inner()))
        });
    }
    Ok(asked.join_all().await.into_iter().flatten().collect())
}

/// To the agent that answered from there, and to nobody who is not `member`.
fn http(
    identity: &Identity,
    credential: &Credential,
    member: &Member,
    from: SocketAddr,
) -> anyhow::Result<Http> {
    let config = client_config(identity, &credential.trust, Expect::Node(member.key))?;
    Ok(Http::new(SocketAddr::new(from.ip(), PORT), config))
}

fn put_together(
    credential: &Credential,
    roster: &Roster,
    briefs: &Briefs,
    statuses: &BTreeMap<String, Status>,
) -> Picture {
    let mut machines = Vec::new();
    for member in &roster.nodes {
        let name = member.name.to_string();
        let mut part = match (statuses.get(&name), briefs.get(&name)) {
            (Some(status), _) => {
                let mut part = MachinePart::default();
                part.add_status(status);
                part.class.declared = status.declared.map(|class| class.to_string());
                part.taints =
                    status.evidence.node.as_ref().map(|node| node.taints.clone()).unwrap_or_default();
                part.last_seen_unix_ms = Some(now_unix_ms());
                part
            }
            (None, Some((brief, from))) => of_brief(brief, *from),
            (None, None) => MachinePart {
                state: "silent".into(),
                reasons: vec!["did not answer on the LAN".into()],
                address: member.address.map(|address| address.to_string()),
                ..MachinePart::default()
            },
        };
        part.role = Some(member.role.to_string());
        part.key = Some(member.key.fingerprint().to_string());
        part.name = name;
        machines.push(part);
    }
    let mut stand_ins: Vec<String> = machines.iter().flat_map(|machine| machine.stand_ins.clone()).collect();
    stand_ins.sort();
    stand_ins.dedup();
    let etcd = statuses
        .values()
        .filter_map(|status| status.evidence.etcd.as_ref())
        .max_by_key(|etcd| (etcd.voter, etcd.members.len()));
    Picture {
        api_version: API_VERSION.into(),
        source: "lan".into(),
        cluster: ClusterPart {
            name: credential.trust.cluster_name.clone(),
            id: credential.trust.cluster.to_string(),
            ..ClusterPart::default()
        },
        etcd: etcd.map(|etcd| EtcdPart::of(&etcd.members, etcd.leader, etcd.cluster_id)).unwrap_or_default(),
        machines,
        stand_ins,
        ..Picture::default()
    }
}

fn of_brief(brief: &Brief, from: SocketAddr) -> MachinePart {
    MachinePart {
        address: Some(brief.address.map_or_else(|| from.ip().to_string(), |address| address.to_string())),
        state: brief.state.to_string(),
        step: brief.step.clone().map(|step| muster_protocol::status::Progress { step, done: 0, total: 0 }),
        reasons: brief.reason.clone().into_iter().collect(),
        taints: brief.taints.clone(),
        stand_ins: brief.stand_ins.clone(),
        versions: Versions {
            k3s: brief.k3s_version.clone(),
            kata: brief.kata.clone(),
            ..Versions::default()
        },
        last_seen_unix_ms: Some(now_unix_ms()),
        ..MachinePart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::{ClusterId, InstanceId, NodeName, Number, Role};
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::Trust;
    use muster_protocol::status::State;

    const NONCE: [u8; 16] = [4; 16];

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn world() -> (Credential, Roster) {
        let cluster = ClusterId([1; 16]);
        let trust =
            Trust { cluster, cluster_name: "lab".into(), root: key(9).public().verify, build_epoch: 0 };
        let nodes = [("one", 1), ("two", 2)];
        let member = |(name, seed): (&str, u8)| Member {
            name: name.parse().unwrap(),
            key: key(seed).public(),
            role: Role::Worker,
            address: None,
        };
        let roster = Roster {
            version: Number::default(),
            operators: Vec::new(),
            nodes: nodes.into_iter().map(member).collect(),
            recovery: key(8).public(),
        };
        (Credential::for_tests(key(7), trust), roster)
    }

    fn answer(name: &str, signer: &SecretKey, nonce: [u8; 16]) -> Vec<u8> {
        let node: NodeName = name.parse().unwrap();
        let brief = Brief {
            nonce,
            node: node.clone(),
            key: signer.public().fingerprint(),
            boot: InstanceId([0; 8]),
            sequence: 1,
            uptime_ms: 1,
            state: State::Ready,
            step: None,
            reason: None,
            role: Role::Worker,
            address: None,
            k3s_version: None,
            stand_ins: vec!["kata: stand-in".into()],
            etcd: None,
            kata: None,
            taints: Vec::new(),
        };
        wire::encode(&Packet::Answer { node, brief: Signed::by_key(ClusterId([1; 16]), signer, &brief) })
    }

    #[test]
    fn only_the_nodes_own_key_and_this_questions_nonce_are_believed() {
        let (credential, roster) = world();
        let believed =
            |bytes: &[u8]| believe(&credential, &members(&roster), &[[3; 16], NONCE], bytes).is_some();
        assert!(believed(&answer("one", &key(1), NONCE)));
        assert!(!believed(&answer("one", &key(2), NONCE)), "another node's key");
        assert!(!believed(&answer("one", &key(1), [5; 16])), "an old answer");
        assert!(!believed(&answer("three", &key(1), NONCE)), "not in the roster");
        assert!(!believed(b"\xff"));
    }

    #[test]
    fn the_question_is_nearly_as_long_as_a_packet_may_be_and_no_longer() {
        let (credential, roster) = world();
        let fleet = u32::try_from(roster.nodes.len()).unwrap();
        let length = question(&credential, fleet, NONCE).len();
        assert!((MAX_PACKET - 8..=MAX_PACKET).contains(&length), "{length}");
    }

    #[test]
    fn whom_a_broadcast_reaches_is_asked_by_unicast_only_when_the_answer_is_missing() {
        let (_, mut roster) = world();
        let (near, far) = (Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 78, 0, 12));
        (roster.nodes[0].address, roster.nodes[1].address) = (Some(near), Some(far));
        let broadcast = Ipv4Addr::new(10, 77, 0, 255);
        let network = Cidr { address: Ipv4Addr::new(10, 77, 0, 1), prefix: 24 };
        let missing: Vec<&Member> = roster.nodes.iter().collect();
        let first = addressees(&[network], &missing, true);
        assert_eq!(first, BTreeSet::from([broadcast, far, Ipv4Addr::BROADCAST]));
        assert_eq!(addressees(&[], &missing, false), BTreeSet::from([near, far]));
    }

    #[test]
    fn who_did_not_answer_is_shown_as_silent() {
        let (credential, roster) = world();
        let brief =
            believe(&credential, &members(&roster), &[NONCE], &answer("one", &key(1), NONCE)).unwrap();
        let from = SocketAddr::from(([10, 77, 0, 11], PORT));
        let briefs = Briefs::from([("one".to_string(), (brief, from))]);
        let picture = put_together(&credential, &roster, &briefs, &BTreeMap::new());
        let states: Vec<&str> = picture.machines.iter().map(|machine| machine.state.as_str()).collect();
        assert_eq!(states, ["ready", "silent"]);
        assert_eq!(picture.source, "lan");
    }

    #[test]
    fn what_is_a_stand_in_is_told_as_its_nodes_tell_it() {
        let (credential, roster) = world();
        let briefs = [("one", 1), ("two", 2)].map(|(name, seed)| {
            let bytes = answer(name, &key(seed), NONCE);
            let brief = believe(&credential, &members(&roster), &[NONCE], &bytes).unwrap();
            (name.to_string(), (brief, SocketAddr::from(([10, 77, 0, 11], PORT))))
        });
        let picture = put_together(&credential, &roster, &Briefs::from(briefs), &BTreeMap::new());
        assert_eq!(picture.stand_ins, ["kata: stand-in"], "the same words of two nodes are one line");
        assert!(picture.machines.iter().all(|machine| machine.stand_ins == ["kata: stand-in"]));
    }
}
