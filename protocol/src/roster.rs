//! Who belongs to the cluster: agents trust operators, and seal to each other, from this alone.

use crate::ids::{NodeName, Number, Role};
use crate::keys::PublicKey;
use crate::signed::{Kind, Statement};
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub version: Number,
    pub operators: Vec<Operator>,
    pub nodes: Vec<Member>,
    /// What the token box of last resort is sealed to (design §5): its private half is the operator's, offline.
    pub recovery: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    pub name: String,
    pub key: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: NodeName,
    pub key: PublicKey,
    pub role: Role,
    /// As declared, or as last seen.
    pub address: Option<Ipv4Addr>,
}

impl Versioned for Roster {
    const VERSION: u8 = 1;
}

impl Statement for Roster {
    const KIND: Kind = Kind::Roster;
    fn number(&self) -> Option<Number> {
        Some(self.version)
    }
}
