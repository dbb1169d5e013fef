//! What a sync brings is believed piece by piece, made durable, and only then acted on.
//!
//! One bad piece stops none of the others, and nothing that was in force stops being so because its successor is bad.

use crate::node::gate::record::Kept;
use crate::node::gate::{GRANT, GateError, Papers};
use crate::node::tokens::TokenError;
use crate::state::{MANIFEST, Numbers, ROSTER, Root, SEEN, StateError};
use muster_protocol::class::{Class, WrongClass, fits};
use muster_protocol::grant::Grant;
use muster_protocol::ids::Role;
use muster_protocol::manifest::Manifest;
use muster_protocol::roster::Roster;
use muster_protocol::sealed::SealedBox;
use muster_protocol::signed::{By, Clock, Listener, Refused, Signed, Trust};

#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("a {what} is not believed")]
    Refused { what: &'static str, source: Refused },
    #[error("the new manifest's class does not fit")]
    Class(#[from] WrongClass),
    #[error(
        "the new manifest makes this {from} a {to}\nhint: a role changes with muster node reinstall alone"
    )]
    Role { from: Role, to: Role },
    #[error("a token was not taken")]
    Token(#[from] TokenError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Takes a manifest into force. The file comes before the number: a cut between the two leaves the newer file under
/// the older number, which is believed; the other way round it would not be.
pub fn manifest(
    root: &Root,
    papers: &Papers,
    detected: Class,
    now: Option<u64>,
    signed: &Signed<Manifest>,
) -> Result<(), NotTaken> {
    let numbers = root.numbers()?;
    let old = papers.manifest.get();
    let listener = Listener {
        me: Some((&old.node, papers.key.public().fingerprint())),
        accepted: numbers.manifest,
        delegation: numbers.delegation,
        now,
        ..Listener::default()
    };
    let verified = signed
        .verify(By::Online(&papers.trust), &listener)
        .map_err(|source| NotTaken::Refused { what: "manifest", source })?;
    let new = verified.get();
    fits(new.class, detected)?;
    if new.role != old.role {
        return Err(NotTaken::Role { from: old.role, to: new.role });
    }
    root.write_if_other(MANIFEST, &muster_protocol::wire::encode(signed), 0o600)?;
    let delegation = numbers.delegation.max(verified.delegation());
    Ok(root.save(SEEN, &Numbers { manifest: verified.accepted(), delegation, ..numbers })?)
}

pub fn roster(root: &Root, trust: &Trust, signed: &Signed<Roster>) -> Result<Roster, NotTaken> {
    let numbers = root.numbers()?;
    let listener =
        Listener { accepted: numbers.roster, delegation: numbers.delegation, ..Listener::default() };
    let verified = signed
        .verify(By::Online(trust), &listener)
        .map_err(|source| NotTaken::Refused { what: "roster", source })?;
    root.write_if_other(ROSTER, &muster_protocol::wire::encode(signed), 0o600)?;
    let delegation = numbers.delegation.max(verified.delegation());
    root.save(SEEN, &Numbers { roster: verified.accepted(), delegation, ..numbers })?;
    Ok(verified.into_inner())
}

/// Lays a grant ready for the gate. Returns whether it was: a node that needs none takes none, so that none lies there
/// when k3s restarts for another reason. A member in no list any more needs one though its data says it may start.
pub fn grant(
    root: &Root,
    papers: &Papers,
    is_removed: bool,
    signed: &Signed<Grant>,
) -> Result<bool, NotTaken> {
    if !is_removed && !wants_grant(root, papers) {
        return Ok(false);
    }
    let numbers = root.numbers()?;
    let listener = Listener {
        me: Some((&papers.manifest.get().node, papers.key.public().fingerprint())),
        accepted: numbers.grant,
        delegation: numbers.delegation,
        ..Listener::default()
    };
    let verified = signed
        .verify(By::Online(&papers.trust), &listener)
        .map_err(|source| NotTaken::Refused { what: "grant", source })?;
    let delegation = numbers.delegation.max(verified.delegation());
    root.save(SEEN, &Numbers { grant: verified.accepted(), delegation, ..numbers })?;
    root.save(GRANT, signed)?;
    Ok(true)
}

/// A grant is what is missing; nothing else is.
pub fn wants_grant(root: &Root, papers: &Papers) -> bool {
    papers.manifest.get().role == Role::Server
        && match papers.preview(root) {
            Ok(_) => false,
            Err(GateError::Refused(refusal)) => refusal.wants_grant(),
            // What lies there is of no use; a new one would be.
            Err(GateError::BadGrant(_)) => true,
            Err(_) => false,
        }
}

pub fn sealed(root: &Root, papers: &Papers, signed: &Signed<SealedBox>) -> Result<bool, NotTaken> {
    let role = papers.manifest.get().role;
    Ok(papers.tokens(root).receive(role, signed)?)
}

/// What the provisioner's clock said, if it answers our own question and is not before this image was made.
pub fn clock(trust: &Trust, nonce: [u8; 16], signed: &Signed<Clock>) -> Option<u64> {
    let verified = signed.verify(By::Online(trust), &Listener::default()).ok()?;
    let said = verified.get();
    let possible = said.nonce == nonce && said.unix_ms / 1000 >= trust.build_epoch;
    possible.then_some(said.unix_ms)
}

/// Whether k3s was ever let through here: from then on only an ordered upgrade changes versions.
pub fn may_replace(kept: &Kept) -> bool {
    !kept.started
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, node};
    use muster_protocol::grant::Start;
    use muster_protocol::ids::Number;

    fn take(root: &Root, cluster: &Cluster, new: &Manifest) -> Result<(), NotTaken> {
        let papers = Papers::read(root).unwrap();
        manifest(root, &papers, Class::Generic, Some(1_800_000_000), &cluster.sign(new))
    }

    #[test]
    fn a_newer_manifest_comes_into_force_and_an_older_one_never_again() {
        let cluster = Cluster::new();
        let root = node(&cluster, 4);
        let newer = Manifest { number: Cluster::number(11), labels: vec![], ..cluster.manifest(4) };
        take(&root, &cluster, &newer).unwrap();
        take(&root, &cluster, &newer).unwrap();
        assert_eq!(Papers::read(&root).unwrap().manifest.get(), &newer);
        let older = take(&root, &cluster, &cluster.manifest(4));
        assert!(matches!(older, Err(NotTaken::Refused { source: Refused::Older { .. }, .. })), "{older:?}");
        let other = Manifest { taints: vec!["x:NoSchedule".into()], ..newer.clone() };
        let same = take(&root, &cluster, &other);
        assert!(
            matches!(same, Err(NotTaken::Refused { source: Refused::SameNumber { .. }, .. })),
            "{same:?}"
        );
        assert_eq!(Papers::read(&root).unwrap().manifest.get(), &newer);
    }

    #[test]
    fn a_manifest_for_another_node_class_role_or_time_changes_nothing() {
        let cluster = Cluster::new();
        let root = node(&cluster, 4);
        let number = Cluster::number(11);
        let papers = || Papers::read(&root).unwrap();
        let before = (root.read(MANIFEST).unwrap(), root.read(SEEN).unwrap());
        let other_node = Manifest { number, node: Cluster::name(5), ..cluster.manifest(4) };
        assert!(take(&root, &cluster, &other_node).is_err());
        let other_role = Manifest { number, role: Role::Server, ..cluster.manifest(4) };
        assert!(matches!(take(&root, &cluster, &other_role), Err(NotTaken::Role { .. })));
        let expired = Manifest { number, expires_at: 5, ..cluster.manifest(4) };
        assert!(take(&root, &cluster, &expired).is_err());
        let good = Manifest { number, ..cluster.manifest(4) };
        let wrong = manifest(&root, &papers(), Class::DgxSpark, None, &cluster.sign(&good));
        assert!(matches!(wrong, Err(NotTaken::Class(_))));
        let by_node = Signed::by_key(cluster.trust.cluster, &cluster.node(1), &good);
        assert!(manifest(&root, &papers(), Class::Generic, None, &by_node).is_err());
        assert_eq!((root.read(MANIFEST).unwrap(), root.read(SEEN).unwrap()), before);
    }

    #[test]
    fn a_cut_between_file_and_number_leaves_a_node_that_reads() {
        let cluster = Cluster::new();
        let root = node(&cluster, 4);
        let newer = Manifest { number: Cluster::number(11), ..cluster.manifest(4) };
        let numbers = root.read(SEEN).unwrap();
        take(&root, &cluster, &newer).unwrap();
        // As if the power went after the file and before the number.
        match numbers {
            Some(bytes) => root.write(SEEN, &bytes, 0o600).unwrap(),
            None => root.remove(SEEN).unwrap(),
        }
        assert_eq!(Papers::read(&root).unwrap().manifest.get(), &newer);
    }

    #[test]
    fn a_grant_is_laid_ready_only_where_one_is_wanted() {
        let cluster = Cluster::new();
        let root = node(&cluster, 1);
        let papers = || Papers::read(&root).unwrap();
        let init = Start::Init { nonce: [3; 16], installation: Number::default() };
        let signed = |fence| cluster.sign(&cluster.grant(1, fence, init.clone()));
        assert!(wants_grant(&root, &papers()));
        assert!(grant(&root, &papers(), false, &signed(30)).unwrap());
        assert!(!wants_grant(&root, &papers()), "the gate would pass now");
        assert!(!grant(&root, &papers(), false, &signed(31)).unwrap());
        root.remove(GRANT).unwrap();
        assert!(grant(&root, &papers(), false, &signed(30)).unwrap(), "the same one again");
        root.remove(GRANT).unwrap();
        assert!(grant(&root, &papers(), false, &signed(29)).is_err(), "never an older one");
        let worker = node(&cluster, 4);
        assert!(!wants_grant(&worker, &Papers::read(&worker).unwrap()));
    }

    #[test]
    fn a_time_is_taken_as_the_answer_to_our_own_question_only() {
        let cluster = Cluster::new();
        let now_ms = cluster.trust.build_epoch * 1000;
        let signed = cluster.sign(&Clock { unix_ms: now_ms, nonce: [1; 16] });
        let early = cluster.sign(&Clock { unix_ms: now_ms - 1, nonce: [1; 16] });
        assert_eq!(clock(&cluster.trust, [1; 16], &signed), Some(now_ms));
        assert_eq!(clock(&cluster.trust, [2; 16], &signed), None, "an answer to another question");
        assert_eq!(clock(&cluster.trust, [1; 16], &early), None, "before the image was made");
    }
}
