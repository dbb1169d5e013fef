//! A question to the whole LAN, as an operator's laptop asks it when no provisioner is there.

use crate::lan::PROVISIONER;
use crate::machine::{key, name};
use muster_protocol::ids::{Digest, NodeName};
use muster_protocol::keys::SecretKey;
use muster_protocol::lan::{MAX_PACKET, PORT, Packet, Question};
use muster_protocol::signed::{By, Listener, Signed, Trust};
use muster_protocol::status::State;
use muster_protocol::wire;
use netns::Netns;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is answered to one broadcast within two seconds.
pub(crate) fn ask(hub: &Netns, trust: Trust, operator: SecretKey) -> BTreeMap<NodeName, State> {
    let asked = hub.run(move || {
        let socket = UdpSocket::bind((PROVISIONER, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&Digest::of(&now.as_nanos().to_le_bytes()).0[..16]);
        let question = Question {
            nonce,
            operator: operator.public().fingerprint(),
            asked_at_ms: u64::try_from(now.as_millis()).unwrap(),
            fleet: 4,
            padding: vec![0; 700],
        };
        let ask = wire::encode(&Packet::Ask(Signed::by_key(trust.cluster, &operator, &question)));
        socket.send_to(&ask, ("10.77.0.255", PORT)).unwrap();
        let mut answered = BTreeMap::new();
        let mut buffer = [0; MAX_PACKET];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            assert!(length <= ask.len(), "an answer is never longer than the question");
            let Packet::Answer { node, brief } = wire::decode(&buffer[..length]).unwrap() else {
                panic!("an answer")
            };
            let key = (1..=9).find(|n| name(*n) == node).map(key).unwrap().public();
            let brief =
                brief.verify(By::Key(trust.cluster, &key), &Listener::default()).unwrap().into_inner();
            assert_eq!(brief.nonce, nonce);
            for part in ["k3s: stand-in", "kata: stand-in"] {
                assert!(brief.stand_ins.iter().any(|told| told == part), "{:?}", brief.stand_ins);
            }
            answered.insert(node, brief.state);
        }
        answered
    });
    asked.join().unwrap()
}
