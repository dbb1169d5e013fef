//! Signed statements, and the one way to believe them.
//!
//! A statement is signed by the cluster's online key (which the root key in every UKI delegates), by a node key or by
//! an operator key. [`Signed::verify`] checks kind, cluster, signer, audience, class, version, number and expiry in
//! that order and returns a [`Verified`] that nothing else can make. It persists nothing: the caller stores
//! [`Verified::accepted`] after every check has passed, and only then acts.

use crate::class::Class;
use crate::hex::ArrayBytes;
use crate::ids::{ClusterId, Digest, NodeName, Number};
use crate::keys::{Fingerprint, PublicKey, SecretKey, VerifyKey};
use crate::wire::{self, Undecodable, Versioned};
use alloc::vec::Vec;
use core::marker::PhantomData;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Separates the purposes of signatures, so that no statement can be taken for another kind. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Delegation = 1,
    Manifest = 2,
    Order = 3,
    Beacon = 4,
    Roster = 5,
    Grant = 6,
    Command = 7,
    Clock = 8,
    TlsIdentity = 9,
    LanQuestion = 10,
    LanAnswer = 11,
    Status = 12,
    Box = 13,
    BeaconProof = 14,
}

/// What can be signed.
pub trait Statement: Versioned {
    const KIND: Kind;

    /// The node and key this is for; `None` is for everybody in the cluster.
    fn audience(&self) -> Option<(&NodeName, Fingerprint)> {
        None
    }
    /// The hardware class it was written for.
    fn class(&self) -> Option<Class> {
        None
    }
    /// Its place in a series in which older ones are refused.
    fn number(&self) -> Option<Number> {
        None
    }
    /// Unix seconds after which it may no longer be accepted. What was accepted stays in force.
    fn expires_at(&self) -> Option<u64> {
        None
    }
}

/// The root key's permission for one online key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    pub number: u32,
    pub online: VerifyKey,
}

impl Versioned for Delegation {
    const VERSION: u8 = 1;
}

impl Statement for Delegation {
    const KIND: Kind = Kind::Delegation;
}

/// What every UKI carries: which cluster, which root key, and a time that is surely past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    pub cluster: ClusterId,
    pub cluster_name: alloc::string::String,
    pub root: VerifyKey,
    /// Unix seconds when the image was composed; no clock below it is believed.
    pub build_epoch: u64,
}

impl Versioned for Trust {
    const VERSION: u8 = 1;
}

/// A body, its signature, and for the online key the root's delegation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    body: Vec<u8>,
    signature: ArrayBytes<64>,
    delegation: Option<(Vec<u8>, ArrayBytes<64>)>,
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

impl<T> core::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Signed({} bytes)", self.body.len())
    }
}

impl<T: Statement> Versioned for Signed<T> {
    const VERSION: u8 = 1;
}

/// The online key with the root's word for it.
#[derive(Clone)]
pub struct OnlineKey {
    pub secret: SecretKey,
    pub delegation: Signed<Delegation>,
    pub number: u32,
}

/// Whose signature is asked for.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The online key that this root delegates.
    Online(&'a Trust),
    /// The root key itself.
    Root(&'a Trust),
    /// This node or operator.
    Key(ClusterId, &'a PublicKey),
}

impl By<'_> {
    fn cluster(&self) -> ClusterId {
        match self {
            Self::Online(trust) | Self::Root(trust) => trust.cluster,
            Self::Key(cluster, _) => *cluster,
        }
    }
}

/// Who is listening and what it already knows.
#[derive(Debug, Clone, Default)]
pub struct Listener<'a> {
    /// Our own name and key; a statement for somebody else is refused.
    pub me: Option<(&'a NodeName, Fingerprint)>,
    /// Our own class as declared or detected; a statement for another is refused.
    pub class: Option<Class>,
    /// The newest statement of this kind that was accepted.
    pub accepted: Option<Accepted>,
    /// The newest delegation that was accepted.
    pub delegation: u32,
    /// Unix seconds, never below the trust's build epoch; `None` where there is no sane clock yet.
    pub now: Option<u64>,
}

/// What to remember of an accepted statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub number: Number,
    pub digest: Digest,
}

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("cannot be read: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("carries no delegation by the cluster's root key")]
    NoDelegation,
    #[error("its delegation is not signed by the cluster's root key")]
    BadDelegation,
    #[error("its delegation {have} is older than {known}")]
    OldDelegation { have: u32, known: u32 },
    #[error("its signature does not fit: another key, another cluster, another kind, or altered on the way")]
    BadSignature,
    #[error("it is for another node (`{intended}`)")]
    OtherNode { intended: NodeName },
    #[error("it is for another key ({intended})")]
    OtherKey { intended: Fingerprint },
    #[error("it is for class `{intended}`")]
    OtherClass { intended: Class },
    #[error("its number {have} is older than {known}")]
    Older { have: Number, known: Number },
    #[error("its number {number} was used before with other content")]
    SameNumber { number: Number },
    #[error("its number is of delegation {have}, its key of delegation {key}")]
    ForeignNumber { have: u32, key: u32 },
    #[error("it could be accepted until {at} (unix seconds), now is {now}")]
    Expired { at: u64, now: u64 },
}

/// A statement that passed every check. Only [`Signed::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    accepted: Option<Accepted>,
    delegation: u32,
}

impl<T> Verified<T> {
    pub fn get(&self) -> &T {
        &self.value
    }

    pub fn into_inner(self) -> T {
        self.value
    }

    /// To be persisted before acting, where the statement has a number.
    pub fn accepted(&self) -> Option<Accepted> {
        self.accepted
    }

    /// The delegation under which it was signed; 0 for node and operator keys.
    pub fn delegation(&self) -> u32 {
        self.delegation
    }
}

impl<T: Statement> Signed<T> {
    /// Signed by the cluster's online key.
    pub fn by_online(cluster: ClusterId, key: &OnlineKey, value: &T) -> Self {
        let body = wire::encode(value);
        let signature = key.secret.sign(&message::<T>(cluster, &body));
        let delegation = Some((key.delegation.body.clone(), key.delegation.signature));
        Self { body, signature: ArrayBytes(signature), delegation, kind: PhantomData }
    }

    /// Signed by a node, an operator, or (for delegations) the root key.
    pub fn by_key(cluster: ClusterId, key: &SecretKey, value: &T) -> Self {
        let body = wire::encode(value);
        let signature = key.sign(&message::<T>(cluster, &body));
        Self { body, signature: ArrayBytes(signature), delegation: None, kind: PhantomData }
    }

    /// The only way from bytes to a value that may be acted on.
    pub fn verify(&self, by: By<'_>, to: &Listener<'_>) -> Result<Verified<T>, Refused> {
        let cluster = by.cluster();
        let (key, delegation) = match by {
            By::Online(trust) => {
                let delegation = self.delegated(trust)?;
                if delegation.number < to.delegation {
                    return Err(Refused::OldDelegation { have: delegation.number, known: to.delegation });
                }
                (delegation.online, delegation.number)
            }
            By::Root(trust) => (trust.root, 0),
            By::Key(_, key) => (key.verify, 0),
        };
        check(&key, &message::<T>(cluster, &self.body), &self.signature)?;

        let value: T = wire::decode(&self.body)?;
        if let (Some((node, key)), Some((my_name, my_key))) = (value.audience(), to.me) {
            if node != my_name {
                return Err(Refused::OtherNode { intended: node.clone() });
            }
            if key != my_key {
                return Err(Refused::OtherKey { intended: key });
            }
        }
        if let (Some(intended), Some(mine)) = (value.class(), to.class)
            && intended != mine
        {
            return Err(Refused::OtherClass { intended });
        }
        let accepted = value.number().map(|number| Accepted { number, digest: Digest::of(&self.body) });
        if let Some(new) = accepted {
            if matches!(by, By::Online(_)) && new.number.delegation != delegation {
                return Err(Refused::ForeignNumber { have: new.number.delegation, key: delegation });
            }
            if let Some(known) = to.accepted {
                if new.number < known.number {
                    return Err(Refused::Older { have: new.number, known: known.number });
                }
                if new.number == known.number && new.digest != known.digest {
                    return Err(Refused::SameNumber { number: new.number });
                }
            }
        }
        if let (Some(at), Some(now)) = (value.expires_at(), to.now)
            && now > at
        {
            return Err(Refused::Expired { at, now });
        }
        Ok(Verified { value, accepted, delegation })
    }

    fn delegated(&self, trust: &Trust) -> Result<Delegation, Refused> {
        let (body, signature) = self.delegation.as_ref().ok_or(Refused::NoDelegation)?;
        check(&trust.root, &message::<Delegation>(trust.cluster, body), signature)
            .map_err(|_| Refused::BadDelegation)?;
        wire::decode(body).map_err(Refused::from)
    }
}

/// What is signed: kind and cluster first, so that a signature means one thing in one cluster.
fn message<T: Statement>(cluster: ClusterId, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(32 + body.len());
    message.extend_from_slice(b"muster signed 1\0");
    message.push(T::KIND as u8);
    message.extend_from_slice(&cluster.0);
    message.extend_from_slice(body);
    message
}

/// `verify_strict` (dalek): no small-order keys, no malleable signatures.
fn check(key: &VerifyKey, message: &[u8], signature: &ArrayBytes<64>) -> Result<(), Refused> {
    let key = VerifyingKey::from_bytes(&key.0).map_err(|_| Refused::BadSignature)?;
    key.verify_strict(message, &Signature::from_bytes(&signature.0)).map_err(|_| Refused::BadSignature)
}

/// A time that the provisioner vouches for; lets a machine without a clock start k3s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    pub unix_ms: u64,
    /// The asker's nonce, so that an old answer is not a new time.
    pub nonce: [u8; 16],
}

impl Versioned for Clock {
    const VERSION: u8 = 1;
}

impl Statement for Clock {
    const KIND: Kind = Kind::Clock;
}
