//! Secrets encrypted to one node key (HPKE, RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305), signed by the sender.
//!
//! The provisioner carries these boxes and cannot open them.

use crate::ids::{ClusterId, words};
use crate::keys::{Fingerprint, PublicKey, SealKey, SecretKey};
use crate::signed::{Kind, Statement};
use crate::wire::{self, Versioned};
use alloc::vec::Vec;
use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

words!(
    /// What is in the box; bound to it, so that one secret cannot be passed off as another.
    Secret {
        ServerToken = "k3s-server-token",
        AgentToken = "k3s-agent-token",
        Kubeconfig = "kubeconfig",
    }
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBox {
    pub to: Fingerprint,
    pub from: Fingerprint,
    pub secret: Secret,
    encapsulated: [u8; 32],
    ciphertext: Vec<u8>,
}

impl Versioned for SealedBox {
    const VERSION: u8 = 1;
}

/// A box travels as `Signed<SealedBox>` by its sender's node key: HPKE's base mode alone says nothing about who sealed.
impl Statement for SealedBox {
    const KIND: Kind = Kind::Box;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the recipient's sealing key is not a usable X25519 key")]
    BadKey,
    #[error("the box is for {to}, this key is {me}")]
    NotForMe { to: Fingerprint, me: Fingerprint },
    #[error("the box cannot be opened: damaged, or sealed for another purpose or cluster")]
    CannotOpen,
}

impl SealedBox {
    pub fn seal(
        cluster: ClusterId,
        secret: Secret,
        plain: &[u8],
        from: Fingerprint,
        to: &PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, SealError> {
        let to_print = to.fingerprint();
        let SealKey(key) = to.seal;
        let key =
            <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&key).map_err(|_| SealError::BadKey)?;
        let (encapsulated, ciphertext) =
            hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &key,
                &info(cluster, secret),
                plain,
                &aad(from, to_print),
                rng,
            )
            .map_err(|_| SealError::BadKey)?;
        Ok(Self { to: to_print, from, secret, encapsulated: encapsulated.to_bytes().into(), ciphertext })
    }

    pub fn open(&self, cluster: ClusterId, me: &SecretKey) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let my_print = me.public().fingerprint();
        if self.to != my_print {
            return Err(SealError::NotForMe { to: self.to, me: my_print });
        }
        let key = Zeroizing::new(me.sealing().to_bytes());
        let key =
            <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(&*key).map_err(|_| SealError::BadKey)?;
        let encapsulated = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(&self.encapsulated)
            .map_err(|_| SealError::CannotOpen)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key,
            &encapsulated,
            &info(cluster, self.secret),
            &self.ciphertext,
            &aad(self.from, self.to),
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError::CannotOpen)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(self)
    }
}

fn info(cluster: ClusterId, secret: Secret) -> Vec<u8> {
    [b"muster sealed 1\0".as_slice(), &cluster.0, secret.word().as_bytes()].concat()
}

fn aad(from: Fingerprint, to: Fingerprint) -> Vec<u8> {
    [from.0, to.0].concat()
}
