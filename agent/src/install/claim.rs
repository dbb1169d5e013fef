//! `claim`: the provisioner gives the order to this key and disk, once, and says what the node is to be.
//!
//! The claim is answered again with the same words until the order is done, so asking twice is safe.

use super::choose::Refusal;
use muster_protocol::keys::SecretKey;
use muster_protocol::manifest::Manifest;
use muster_protocol::order::Order;
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Listener, Refused, Signed, Trust, Verified};
use muster_protocol::sync::{Claim, ClaimAnswer};
use muster_protocol::wire;

/// An order held by us: the node's manifest and roster, believed, and their bytes as they were signed.
#[derive(Debug, Clone)]
pub struct Held {
    pub manifest: Verified<Manifest>,
    pub signed_manifest: Vec<u8>,
    pub signed_roster: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the order cannot be taken: {reason}")]
    NotHeld { reason: String },
    #[error("the manifest that came with the order is not to be believed")]
    Manifest(#[source] Refused),
    #[error("the roster that came with the order is not to be believed")]
    Roster(#[source] Refused),
}

/// What to ask for.
pub fn claim(order: &Order) -> Claim {
    Claim { order: order.number, disk: order.disk.clone() }
}

/// An order is a key's permission. Who verified it may not have known its own key yet, so it is compared here again.
pub fn is_mine(order: &Order, key: &SecretKey) -> Result<(), Refusal> {
    let mine = key.public().fingerprint();
    if order.key == mine {
        Ok(())
    } else {
        Err(Refusal::OtherKey { order: order.key.to_string(), mine: mine.to_string() })
    }
}

/// From the answer to what may be acted on. `now` is `None` on a machine without a clock.
pub fn held(
    answer: ClaimAnswer,
    order: &Verified<Order>,
    trust: &Trust,
    now: Option<u64>,
) -> Result<Held, ClaimError> {
    let (manifest, roster) = match answer {
        ClaimAnswer::Held { manifest, roster } => (manifest, roster),
        ClaimAnswer::Refused { reason } => return Err(ClaimError::NotHeld { reason }),
    };
    let listener = Listener {
        me: Some((&order.get().node, order.get().key)),
        class: Some(order.get().class),
        delegation: order.delegation(),
        now,
        ..Listener::default()
    };
    let verified = manifest.verify(By::Online(trust), &listener).map_err(ClaimError::Manifest)?;
    let believed: Result<Verified<Roster>, Refused> = roster.verify(By::Online(trust), &listener);
    believed.map_err(ClaimError::Roster)?;
    Ok(Held { manifest: verified, signed_manifest: bytes(&manifest), signed_roster: bytes(&roster) })
}

fn bytes<T: muster_protocol::signed::Statement>(signed: &Signed<T>) -> Vec<u8> {
    wire::encode(signed)
}
