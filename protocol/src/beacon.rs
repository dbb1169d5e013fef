//! The provisioner's call on the LAN: UDP broadcast on 7480, every two seconds. Frozen for ever.

use crate::ids::InstanceId;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use serde::{Deserialize, Serialize};

/// UDP and TCP port of the provisioner.
pub const PORT: u16 = 7480;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// This installation of the provisioner; two that differ and prove themselves are two provisioners.
    pub instance: InstanceId,
    /// Persisted and rising, so that a replay is not a new voice.
    pub sequence: u64,
    /// Where the TLS API listens, on the address this packet came from.
    pub api_port: u16,
    /// Where boot files and artifacts are served in clear, by digest.
    pub http_port: u16,
}

impl Versioned for Beacon {
    const VERSION: u8 = 1;
}

impl Statement for Beacon {
    const KIND: Kind = Kind::Beacon;
}

/// The answer to a nonce: this instance is alive here and holds the online key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconProof {
    pub instance: InstanceId,
    pub nonce: [u8; 16],
}

impl Versioned for BeaconProof {
    const VERSION: u8 = 1;
}

impl Statement for BeaconProof {
    const KIND: Kind = Kind::BeaconProof;
}

/// What is said on 7480/udp: postcard of this enum behind the version byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Beacon(crate::signed::Signed<Beacon>),
    /// "Prove that you are a live provisioner of this cluster"; padded by the asker to the answer's size.
    Challenge {
        nonce: [u8; 16],
        padding: alloc::vec::Vec<u8>,
    },
    Proof(crate::signed::Signed<BeaconProof>),
}

impl Versioned for Call {
    const VERSION: u8 = 1;
}
