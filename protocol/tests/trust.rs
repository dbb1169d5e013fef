//! Nothing altered, cut, misdirected, old or doubled is believed, and each refusal has its own name.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod samples;

use muster_protocol::beacon::Beacon;
use muster_protocol::class::Class;
use muster_protocol::ids::{ClusterId, NodeName, Number};
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::manifest::Manifest;
use muster_protocol::order::Order;
use muster_protocol::signed::{
    Accepted, By, Delegation, Listener, OnlineKey, Refused, Signed, Statement, Trust,
};
use muster_protocol::status::Status;
use muster_protocol::wire;
use samples::{CLUSTER, manifest, node_key, online, order, status, trust};

fn me() -> (NodeName, PublicKey) {
    ("mini-pc-1".parse().unwrap(), node_key().public())
}

fn verify<T: Statement>(bytes: &[u8], by: By<'_>, to: &Listener<'_>) -> Result<T, String> {
    let signed: Signed<T> = wire::decode(bytes).map_err(|e| e.to_string())?;
    signed.verify(by, to).map(|v| v.into_inner()).map_err(|e| e.to_string())
}

/// Every single-bit flip and every truncation of a statement's bytes.
fn mutants(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flips = (0..bytes.len() * 8).map(|bit| {
        let mut copy = bytes.to_vec();
        copy[bit / 8] ^= 1 << (bit % 8);
        copy
    });
    flips.chain((0..bytes.len()).map(|len| bytes[..len].to_vec()))
}

fn no_mutant_passes<T: Statement + PartialEq + std::fmt::Debug>(bytes: &[u8], by: By<'_>, to: &Listener<'_>) {
    assert!(verify::<T>(bytes, by, to).is_ok(), "the original is believed");
    let mut tried = 0;
    for mutant in mutants(bytes) {
        tried += 1;
        assert!(
            verify::<T>(&mutant, by, to).is_err(),
            "mutant {tried} of {} bytes was believed",
            bytes.len()
        );
    }
    assert!(tried > bytes.len());
}

#[test]
fn every_bit_flip_and_truncation_is_refused() {
    let (name, key) = me();
    let to = Listener { me: Some((&name, key.fingerprint())), ..Listener::default() };
    let trust = trust();
    no_mutant_passes::<Manifest>(
        &wire::encode(&Signed::by_online(CLUSTER, &online(), &manifest())),
        By::Online(&trust),
        &to,
    );
    no_mutant_passes::<Order>(
        &wire::encode(&Signed::by_online(CLUSTER, &online(), &order())),
        By::Online(&trust),
        &to,
    );
    no_mutant_passes::<Beacon>(
        &wire::encode(&Signed::by_online(CLUSTER, &online(), &samples::beacon())),
        By::Online(&trust),
        &Listener::default(),
    );
    no_mutant_passes::<Status>(
        &wire::encode(&Signed::by_key(CLUSTER, &node_key(), &status())),
        By::Key(CLUSTER, &key),
        &Listener::default(),
    );
}

#[test]
fn bytes_behind_a_statement_are_refused() {
    let mut bytes = wire::encode(&Signed::by_online(CLUSTER, &online(), &manifest()));
    bytes.push(0);
    assert!(verify::<Manifest>(&bytes, By::Online(&trust()), &Listener::default()).is_err());
}

fn refusal<T: Statement + std::fmt::Debug + PartialEq>(
    signed: &Signed<T>,
    trust: &Trust,
    to: &Listener<'_>,
) -> Refused {
    signed.verify(By::Online(trust), to).unwrap_err()
}

#[test]
fn each_misdirection_has_its_own_refusal() {
    let (name, key) = me();
    let signed = Signed::by_online(CLUSTER, &online(), &manifest());
    let trust = trust();
    let other: NodeName = "mini-pc-10".parse().unwrap();
    let to = |name| Listener { me: Some((name, key.fingerprint())), ..Listener::default() };

    assert_eq!(refusal(&signed, &trust, &to(&other)), Refused::OtherNode { intended: name.clone() });
    let stranger = SecretKey::from_seed([99; 32]).public().fingerprint();
    let listener = Listener { me: Some((&name, stranger)), ..Listener::default() };
    assert_eq!(refusal(&signed, &trust, &listener), Refused::OtherKey { intended: key.fingerprint() });
    let listener = Listener { class: Some(Class::RtxHost), ..to(&name) };
    assert_eq!(refusal(&signed, &trust, &listener), Refused::OtherClass { intended: Class::MiniPc });
    let elsewhere = Trust { cluster: ClusterId([8; 16]), ..trust.clone() };
    // Another cluster is another delegation first of all: it does not even get to the body.
    assert_eq!(refusal(&signed, &elsewhere, &to(&name)), Refused::BadDelegation);
    let listener = Listener { now: Some(manifest().expires_at + 1), ..to(&name) };
    assert!(matches!(refusal(&signed, &trust, &listener), Refused::Expired { .. }));
    let listener = Listener { delegation: 4, ..to(&name) };
    assert_eq!(refusal(&signed, &trust, &listener), Refused::OldDelegation { have: 3, known: 4 });
}

#[test]
fn older_numbers_and_the_same_number_with_other_bytes_are_refused() {
    let (name, key) = me();
    let trust = trust();
    let to = |accepted| Listener { me: Some((&name, key.fingerprint())), accepted, ..Listener::default() };
    let first = Signed::by_online(CLUSTER, &online(), &manifest());
    let accepted = first.verify(By::Online(&trust), &to(None)).unwrap().accepted().unwrap();
    assert!(
        first.verify(By::Online(&trust), &to(Some(accepted))).is_ok(),
        "the same bytes again are no news"
    );

    let mut altered = manifest();
    altered.labels.push(("a".into(), "b".into()));
    let altered = Signed::by_online(CLUSTER, &online(), &altered);
    assert_eq!(
        refusal(&altered, &trust, &to(Some(accepted))),
        Refused::SameNumber { number: accepted.number }
    );
    for newer in [
        Number { n: accepted.number.n + 1, ..accepted.number },
        Number { generation: accepted.number.generation + 1, n: 0, ..accepted.number },
    ] {
        let known = Accepted { number: newer, ..accepted };
        let have = accepted.number;
        assert_eq!(refusal(&first, &trust, &to(Some(known))), Refused::Older { have, known: newer });
    }
}

#[test]
fn a_number_of_another_delegation_is_refused() {
    let mut foreign = manifest();
    foreign.number.delegation = 4;
    let signed = Signed::by_online(CLUSTER, &online(), &foreign);
    assert_eq!(refusal(&signed, &trust(), &Listener::default()), Refused::ForeignNumber { have: 4, key: 3 });
}

#[test]
fn one_kind_of_statement_is_never_taken_for_another() {
    // Same bytes, other purpose: the signature covers the kind.
    let bytes = wire::encode(&Signed::by_online(CLUSTER, &online(), &samples::beacon()));
    let as_proof: Signed<muster_protocol::beacon::BeaconProof> = wire::decode(&bytes).unwrap();
    assert_eq!(
        as_proof.verify(By::Online(&trust()), &Listener::default()).unwrap_err(),
        Refused::BadSignature
    );
}

#[test]
fn a_key_that_the_root_did_not_delegate_is_nobody() {
    let rogue = SecretKey::from_seed([66; 32]);
    let own_word = Delegation { number: 9, online: rogue.public().verify };
    let delegation = Signed::by_key(CLUSTER, &rogue, &own_word);
    let signed = Signed::by_online(CLUSTER, &OnlineKey { secret: rogue, delegation, number: 9 }, &manifest());
    assert_eq!(refusal(&signed, &trust(), &Listener::default()), Refused::BadDelegation);
    let naked = Signed::by_key(CLUSTER, &node_key(), &manifest());
    assert_eq!(refusal(&naked, &trust(), &Listener::default()), Refused::NoDelegation);
}

/// Small-order and non-canonical keys (order 1, 2, 4 and 8 points of edwards25519): `verify_strict` takes none.
#[test]
fn weak_keys_sign_nothing() {
    let weak = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    for key in weak {
        let verify: muster_protocol::keys::VerifyKey = key.parse().unwrap();
        let public = PublicKey { verify, seal: node_key().public().seal };
        let signed = Signed::by_key(CLUSTER, &node_key(), &status());
        let mut bytes = wire::encode(&signed);
        // An all-zero signature verifies under some small-order keys when the check is lax.
        let end = bytes.len() - 1;
        bytes[end - 64..end].fill(0);
        for bytes in [wire::encode(&signed), bytes] {
            assert!(super_verify(&bytes, &public).is_err(), "{key}");
        }
    }
}

fn super_verify(bytes: &[u8], key: &PublicKey) -> Result<Status, String> {
    verify::<Status>(bytes, By::Key(CLUSTER, key), &Listener::default())
}
