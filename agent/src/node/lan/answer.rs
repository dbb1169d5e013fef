//! Whether a question over UDP is answered, when, and with what. Pure.
//!
//! Answered is only what is signed by an operator of the roster, asked from this link, not before, and within a minute
//! where our clock is kept; the answer is never larger than the question, and comes after a random delay scaled by the
//! fleet, so that a thousand agents do not answer in the same microsecond.

use muster_protocol::ids::{ClusterId, NodeName};
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::lan::{Brief, EtcdBrief, MAX_PACKET, Packet, Question, window};
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::status::Status;
use muster_protocol::wire::{self, Undecodable};
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

/// A question older or newer than this by our clock is dropped.
const MAX_AGE_MS: u64 = 60_000;
/// Nonces kept; an operator would have to sign more questions within a minute for one to be answered twice.
const MAX_NONCES: usize = 4096;
/// Longest reason in an answer.
const MAX_REASON: usize = 200;
/// Longest words for a part that is a stand-in.
const MAX_STAND_IN: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("it is longer than {MAX_PACKET} bytes")]
    TooLong,
    #[error("it cannot be read: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("it is an answer")]
    NotAQuestion,
    #[error("{from} is not on this link")]
    OffLink { from: Ipv4Addr },
    #[error("no operator of the roster signed it")]
    NotAnOperator,
    #[error("it was asked at {asked_at_ms}, now is {now_ms} (unix milliseconds)")]
    OutOfTime { asked_at_ms: u64, now_ms: u64 },
    #[error("its nonce was used before")]
    Replayed,
}

/// Who asks, and what is known here when the packet comes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub bytes: &'a [u8],
    pub from: Ipv4Addr,
    pub on_link: bool,
    /// Unix milliseconds; `None` while our clock cannot judge.
    pub now_ms: Option<u64>,
}

/// Nonces seen, the oldest forgotten first.
#[derive(Debug, Default)]
pub struct Nonces {
    known: BTreeSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl Nonces {
    /// Whether it is new; it is remembered either way.
    fn take(&mut self, nonce: [u8; 16]) -> bool {
        if !self.known.insert(nonce) {
            return false;
        }
        self.order.push_back(nonce);
        if self.order.len() > MAX_NONCES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The question, or why it stays unanswered. Cheap checks come before signatures.
pub fn consider(
    asked: Asked<'_>,
    cluster: ClusterId,
    roster: &Roster,
    nonces: &mut Nonces,
) -> Result<Question, Ignored> {
    if asked.bytes.len() > MAX_PACKET {
        return Err(Ignored::TooLong);
    }
    if !asked.on_link {
        return Err(Ignored::OffLink { from: asked.from });
    }
    let signed = match wire::decode::<Packet>(asked.bytes)? {
        Packet::Ask(signed) => signed,
        Packet::Answer { .. } => return Err(Ignored::NotAQuestion),
    };
    let question = roster.operators.iter().find_map(|operator| believed(&signed, cluster, &operator.key));
    let question = question.ok_or(Ignored::NotAnOperator)?;
    if let Some(now_ms) = asked.now_ms
        && question.asked_at_ms.abs_diff(now_ms) > MAX_AGE_MS
    {
        return Err(Ignored::OutOfTime { asked_at_ms: question.asked_at_ms, now_ms });
    }
    if !nonces.take(question.nonce) {
        return Err(Ignored::Replayed);
    }
    Ok(question)
}

fn believed(signed: &Signed<Question>, cluster: ClusterId, key: &PublicKey) -> Option<Question> {
    let question = signed.verify(By::Key(cluster, key), &Listener::default()).ok()?.into_inner();
    (question.operator == key.fingerprint()).then_some(question)
}

/// When to answer. `luck` is uniform in 0..=u32::MAX.
pub fn delay(fleet: u32, luck: u32) -> Duration {
    let micros = u64::try_from(window(fleet).as_micros()).unwrap_or(0);
    Duration::from_micros(micros.saturating_mul(u64::from(luck)) >> 32)
}

/// The answer's bytes, at most as many as were asked with; details are left out until it fits.
pub fn answer(
    status: &Status,
    nonce: [u8; 16],
    key: &SecretKey,
    cluster: ClusterId,
    room: usize,
) -> Option<Vec<u8>> {
    let (node, mut brief) = brief(status, nonce)?;
    let fits = |brief: &Brief| {
        let brief = Signed::by_key(cluster, key, brief);
        let bytes = wire::encode(&Packet::Answer { node: node.clone(), brief });
        (bytes.len() <= room.min(MAX_PACKET)).then_some(bytes)
    };
    // What a person misses least goes first.
    let shorten: [fn(&mut Brief); 5] = [
        |_whole| {},
        |brief| brief.taints.clear(),
        |brief| brief.reason = brief.reason.take().map(|reason| cut(&reason, 40)),
        |brief| brief.stand_ins.iter_mut().for_each(|words| *words = cut(words, 24)),
        |brief| (brief.reason, brief.k3s_version, brief.kata, brief.step) = (None, None, None, None),
    ];
    shorten.iter().find_map(|shorten| {
        shorten(&mut brief);
        fits(&brief)
    })
}

fn brief(status: &Status, nonce: [u8; 16]) -> Option<(NodeName, Brief)> {
    let node = status.node.clone()?;
    let evidence = &status.evidence;
    let brief = Brief {
        nonce,
        node: node.clone(),
        key: status.key,
        boot: status.boot,
        sequence: status.sequence,
        uptime_ms: status.uptime_ms,
        state: status.state,
        step: status.step.as_ref().map(|progress| progress.step.clone()),
        reason: status.reasons.first().map(|reason| cut(reason, MAX_REASON)),
        role: status.role?,
        address: status.address,
        k3s_version: evidence.k3s.as_ref().map(|k3s| k3s.version.clone()),
        stand_ins: status.stand_ins.iter().map(|words| cut(words, MAX_STAND_IN)).collect(),
        etcd: evidence.etcd.as_ref().map(|etcd| EtcdBrief {
            voter: etcd.voter,
            leader: etcd.leader,
            member_id: etcd.member_id,
            cluster_id: etcd.cluster_id,
            members: u8::try_from(etcd.members.len()).unwrap_or(u8::MAX),
        }),
        kata: evidence.kata.as_ref().map(|kata| kata.version.clone()),
        taints: evidence.node.as_ref().map(|node| node.taints.clone()).unwrap_or_default(),
    };
    Some((node, brief))
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, a_status};
    use muster_protocol::lan::MAX_DELAY;

    const NOW: u64 = 1_800_000_000_000;
    const FROM: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    fn question(nonce: u8, padding: usize) -> Question {
        Question {
            nonce: [nonce; 16],
            operator: Cluster::new().operator().public().fingerprint(),
            asked_at_ms: NOW,
            fleet: 7,
            padding: vec![0; padding],
        }
    }

    fn packet(key: &SecretKey, question: &Question) -> Vec<u8> {
        wire::encode(&Packet::Ask(Signed::by_key(Cluster::new().trust.cluster, key, question)))
    }

    fn ask(bytes: &[u8], on_link: bool, now_ms: u64, nonces: &mut Nonces) -> Result<Question, Ignored> {
        let cluster = Cluster::new();
        let asked = Asked { bytes, from: FROM, on_link, now_ms: Some(now_ms) };
        consider(asked, cluster.trust.cluster, &cluster.roster(), nonces)
    }

    #[test]
    fn an_operator_s_question_is_answered_once() {
        let mut nonces = Nonces::default();
        let bytes = packet(&Cluster::new().operator(), &question(1, 0));
        assert_eq!(ask(&bytes, true, NOW, &mut nonces), Ok(question(1, 0)));
        assert_eq!(ask(&bytes, true, NOW, &mut nonces), Err(Ignored::Replayed));
        let next = packet(&Cluster::new().operator(), &question(2, 0));
        assert!(ask(&next, true, NOW, &mut nonces).is_ok());
    }

    #[test]
    fn strangers_nodes_other_links_and_other_times_are_ignored() {
        let cluster = Cluster::new();
        let mut nonces = Nonces::default();
        let good = packet(&cluster.operator(), &question(1, 0));
        for key in [cluster.node(1), SecretKey::from_seed([77; 32])] {
            let mut forged = question(1, 0);
            assert_eq!(ask(&packet(&key, &forged), true, NOW, &mut nonces), Err(Ignored::NotAnOperator));
            forged.operator = key.public().fingerprint();
            assert_eq!(ask(&packet(&key, &forged), true, NOW, &mut nonces), Err(Ignored::NotAnOperator));
        }
        assert_eq!(ask(&good, false, NOW, &mut nonces), Err(Ignored::OffLink { from: FROM }));
        for now in [NOW - 60_001, NOW + 60_001] {
            assert!(matches!(ask(&good, true, now, &mut nonces), Err(Ignored::OutOfTime { .. })));
        }
        assert!(
            ask(&good, true, NOW + 60_000, &mut nonces).is_ok(),
            "no nonce was used up by the refused ones"
        );
    }

    #[test]
    fn noise_is_ignored_at_every_length() {
        let mut nonces = Nonces::default();
        let good = packet(&Cluster::new().operator(), &question(1, 100));
        for at in 0..good.len() {
            assert!(ask(&good[..at], true, NOW, &mut nonces).is_err());
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(ask(&bad, true, NOW, &mut nonces).is_err(), "{at}");
        }
        assert_eq!(ask(&[0; MAX_PACKET + 1], true, NOW, &mut nonces), Err(Ignored::TooLong));
    }

    #[test]
    fn an_answer_is_never_larger_than_the_question() {
        let cluster = Cluster::new();
        let mut status = a_status(1);
        status.reasons = vec!["ü".repeat(300)];
        let mut answered = 0;
        for room in 0..=MAX_PACKET + 100 {
            let Some(bytes) = answer(&status, [1; 16], &cluster.node(1), cluster.trust.cluster, room) else {
                continue;
            };
            assert!(bytes.len() <= room.min(MAX_PACKET), "{room}");
            answered += 1;
        }
        assert!(answered > MAX_PACKET - 400, "{answered}");
    }

    #[test]
    fn which_parts_are_stand_ins_is_told_in_the_shortest_answer_too() {
        let cluster = Cluster::new();
        let mut status = a_status(1);
        status.stand_ins = ["k3s", "kata"].map(|part| format!("{part}: {}", "x".repeat(1000))).into();
        let answers = |room| answer(&status, [1; 16], &cluster.node(1), cluster.trust.cluster, room);
        let shortest = (0..MAX_PACKET).find_map(answers).unwrap();
        for (bytes, most) in [(shortest, 24), (answers(MAX_PACKET).unwrap(), MAX_STAND_IN)] {
            let Packet::Answer { brief, .. } = wire::decode(&bytes).unwrap() else { panic!("an answer") };
            let by = By::Key(cluster.trust.cluster, &cluster.node(1).public());
            let told = brief.verify(by, &Listener::default()).unwrap().into_inner().stand_ins;
            assert!(told[0].starts_with("k3s: x") && told[1].starts_with("kata: x"), "{told:?}");
            assert!(told.len() == 2 && told.iter().all(|words| words.len() == most), "{told:?}");
        }
    }

    #[test]
    fn an_answer_is_believed_by_the_node_s_key() {
        let cluster = Cluster::new();
        let bytes = answer(&a_status(1), [5; 16], &cluster.node(1), cluster.trust.cluster, 1200).unwrap();
        let Packet::Answer { node, brief } = wire::decode(&bytes).unwrap() else { panic!("an answer") };
        assert_eq!(node, Cluster::name(1));
        let key = cluster.node(1).public();
        let brief = brief.verify(By::Key(cluster.trust.cluster, &key), &Listener::default()).unwrap();
        assert_eq!(brief.get().nonce, [5; 16]);
    }

    #[test]
    fn delays_are_spread_by_the_fleet_s_size() {
        assert_eq!(delay(7, 0), Duration::ZERO);
        assert!(delay(7, u32::MAX) < Duration::from_micros(1_100));
        assert!(
            delay(10_000, u32::MAX) <= MAX_DELAY && delay(10_000, u32::MAX) > Duration::from_millis(1_400)
        );
        assert!(delay(u32::MAX, u32::MAX) <= MAX_DELAY);
    }

    #[test]
    fn the_oldest_nonce_is_forgotten_first() {
        let mut nonces = Nonces::default();
        for n in 0..MAX_NONCES as u64 + 1 {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&n.to_le_bytes());
            assert!(nonces.take(nonce));
        }
        assert!(nonces.take([0; 16]), "the first one was forgotten");
        assert_eq!(nonces.known.len(), MAX_NONCES);
    }
}
