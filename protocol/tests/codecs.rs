//! Properties of the codecs: nothing read from outside panics, and what is written reads back.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod samples;

use muster_protocol::hello::{Answer, Hello};
use muster_protocol::keys::{Fingerprint, SecretKey};
use muster_protocol::lan::{self, Packet};
use muster_protocol::manifest::Manifest;
use muster_protocol::marker::Marker;
use muster_protocol::sealed::{SealError, SealedBox, Secret};
use muster_protocol::signed::Signed;
use muster_protocol::sync::{SyncReply, SyncRequest};
use muster_protocol::{beacon, wire};
use proptest::prelude::*;
use rand_core::UnwrapErr;
use samples::*;

/// Mutates a valid encoding: random bytes alone rarely get past the first field.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = bytes.len();
    prop::collection::vec((0..len, any::<u8>()), 1..6).prop_map(move |changes| {
        let mut copy = bytes.clone();
        changes.into_iter().for_each(|(at, byte)| copy[at] = byte);
        copy
    })
}

proptest! {
    #[test]
    fn reading_noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        // Only the absence of a panic is asserted: noise that happens to parse is harmless without a signature.
        let _nothing = (
            wire::decode::<beacon::Call>(&bytes).is_ok(),
            wire::decode::<Hello>(&bytes).is_ok(),
            wire::decode::<Answer>(&bytes).is_ok(),
            wire::decode::<Packet>(&bytes).is_ok(),
            wire::decode::<Signed<Manifest>>(&bytes).is_ok(),
            Marker::newest(&bytes, &bytes).is_some(),
        );
    }

    #[test]
    fn reading_damaged_requests_never_panics(bytes in damaged(wire::encode(&sync_request()))) {
        let _nothing = wire::decode::<SyncRequest>(&bytes).is_ok();
    }

    #[test]
    fn reading_damaged_replies_never_panics(bytes in damaged(wire::encode(&sync_reply()))) {
        let _nothing = wire::decode::<SyncReply>(&bytes).is_ok();
    }

    #[test]
    fn a_fingerprint_reads_back(bytes in any::<[u8; 10]>()) {
        let print = Fingerprint(bytes);
        prop_assert_eq!(print.to_string().parse::<Fingerprint>().unwrap(), print);
    }

    #[test]
    fn one_damaged_marker_copy_leaves_the_other(at in 0..4096_usize, byte in any::<u8>()) {
        let old = Marker { sequence: 2, ..marker() };
        let new = marker();
        let mut copy = new.to_copy().unwrap();
        copy[at] ^= byte;
        let read = Marker::newest(&old.to_copy().unwrap(), &copy).unwrap();
        // Zero padding behind the checksum is not part of the marker: damage there changes nothing.
        prop_assert!(read == old || read == new);
    }

    #[test]
    fn a_box_opens_for_its_key_alone(plain in prop::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
        let (to, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let from = node_key().public().fingerprint();
        let mut rng = UnwrapErr(getrandom::SysRng);
        let sealed = SealedBox::seal(CLUSTER, Secret::AgentToken, &plain, from, &to.public(), &mut rng).unwrap();
        prop_assert_eq!(&**sealed.open(CLUSTER, &to).unwrap(), &plain[..]);
        prop_assert!(matches!(sealed.open(CLUSTER, &other), Err(SealError::NotForMe { .. })), "the other key opened it");
        prop_assert!(sealed.open(muster_protocol::ids::ClusterId([1; 16]), &to).is_err());
        let mut bytes = wire::encode(&sealed);
        let at = flip.0 % bytes.len();
        bytes[at] ^= flip.1.max(1);
        if let Ok(damaged) = wire::decode::<SealedBox>(&bytes) {
            prop_assert!(damaged.open(CLUSTER, &to).is_err());
        }
    }
}

#[test]
fn a_question_can_be_padded_to_any_answer() {
    let answer = Packet::Answer {
        node: "mini-pc-1".parse().unwrap(),
        brief: Signed::by_key(CLUSTER, &node_key(), &brief()),
    };
    assert!(wire::encode(&answer).len() <= lan::MAX_PACKET);
}
