//! The statement and the certificate that carries it.

use der::{Decode, Encode, oid::ObjectIdentifier};
use muster_protocol::ids::{ClusterId, Digest};
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::signed::{By, Kind, Listener, OnlineKey, Refused, Signed, Statement, Trust};
use muster_protocol::wire::{self, Undecodable, Versioned};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_cert::certificate::Certificate;

/// Under the UUID arc (X.667), which needs no registration; only 32 bits of it, because const-oid's arcs are u32.
const EXTENSION: &[u64] = &[2, 25, 3_407_114_218];
const EXTENSION_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.25.3407114218");

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRole {
    Provisioner,
    Agent,
    Operator,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TlsIdentity {
    role: PeerRole,
    /// `None` for the provisioner, whose signature is the online key's.
    key: Option<PublicKey>,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo.
    spki: Digest,
}

impl Versioned for TlsIdentity {
    const VERSION: u8 = 1;
}

impl Statement for TlsIdentity {
    const KIND: Kind = Kind::TlsIdentity;
}

/// The extension's content: the key is repeated outside, because it is needed to check the inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Extension {
    key: Option<PublicKey>,
    statement: Signed<TlsIdentity>,
}

impl Versioned for Extension {
    const VERSION: u8 = 1;
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot make a TLS certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Why a peer's certificate is not an identity of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeer {
    #[error("the peer sent no certificate")]
    NoCertificate,
    #[error("the certificate cannot be parsed")]
    Unparsable,
    #[error("the certificate carries no muster identity")]
    NoIdentity,
    #[error("its identity cannot be read: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("its identity is refused: {0}")]
    Refused(#[from] Refused),
    #[error("its identity was made for another certificate")]
    OtherCertificate,
    #[error("it is {have:?}, expected was {want}")]
    Unexpected { have: PeerRole, want: &'static str },
    #[error("it is another node than asked for")]
    OtherNode,
}

/// Our own certificate and its key.
pub struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

/// A peer whose identity was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub role: PeerRole,
    /// The node's or operator's key; `None` for the provisioner.
    pub key: Option<PublicKey>,
    /// The delegation of the provisioner's online key; 0 for the others.
    pub delegation: u32,
}

impl Identity {
    pub fn provisioner(cluster: ClusterId, key: &OnlineKey) -> Result<Self, IdentityError> {
        Self::make(|spki| {
            let statement = TlsIdentity { role: PeerRole::Provisioner, key: None, spki };
            Extension { key: None, statement: Signed::by_online(cluster, key, &statement) }
        })
    }

    pub fn agent(cluster: ClusterId, key: &SecretKey) -> Result<Self, IdentityError> {
        Self::own(cluster, key, PeerRole::Agent)
    }

    pub fn operator(cluster: ClusterId, key: &SecretKey) -> Result<Self, IdentityError> {
        Self::own(cluster, key, PeerRole::Operator)
    }

    fn own(cluster: ClusterId, secret: &SecretKey, role: PeerRole) -> Result<Self, IdentityError> {
        Self::make(|spki| {
            let key = Some(secret.public());
            Extension { key, statement: Signed::by_key(cluster, secret, &TlsIdentity { role, key, spki }) }
        })
    }

    fn make(sign: impl FnOnce(Digest) -> Extension) -> Result<Self, IdentityError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let spki = Digest::of(&rcgen::PublicKeyData::subject_public_key_info(&pair));
        let mut params = rcgen::CertificateParams::new(vec!["muster".into()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, "muster");
        let content = wire::encode(&sign(spki));
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(EXTENSION, content));
        let certificate = params.self_signed(&pair)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
        })
    }
}

/// Reads and checks a certificate as an identity of `trust`'s cluster.
pub(crate) fn identify(certificate: &[u8], trust: &Trust) -> Result<Peer, BadPeer> {
    let certificate = Certificate::from_der(certificate).map_err(|_| BadPeer::Unparsable)?;
    let body = certificate.tbs_certificate();
    let content = body
        .extensions()
        .into_iter()
        .flatten()
        .find(|extension| extension.extn_id == EXTENSION_OID)
        .ok_or(BadPeer::NoIdentity)?;
    let extension: Extension = wire::decode(content.extn_value.as_bytes())?;
    let by = match &extension.key {
        Some(key) => By::Key(trust.cluster, key),
        None => By::Online(trust),
    };
    let verified = extension.statement.verify(by, &Listener::default())?;
    let delegation = verified.delegation();
    let identity = verified.into_inner();
    let spki = body.subject_public_key_info().to_der().map_err(|_| BadPeer::Unparsable)?;
    if identity.key != extension.key || identity.spki != Digest::of(&spki) {
        return Err(BadPeer::OtherCertificate);
    }
    // Only the online key may speak as provisioner: a node key's own word for it is worth nothing.
    match (identity.role, identity.key) {
        (PeerRole::Provisioner, None) | (PeerRole::Agent | PeerRole::Operator, Some(_)) => {}
        (have, _) => return Err(BadPeer::Unexpected { have, want: "a role that fits its key" }),
    }
    Ok(Peer { role: identity.role, key: identity.key, delegation })
}
