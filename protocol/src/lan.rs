//! Questions to agents over UDP (port 7481): signed by an operator, answered by node keys, never larger than asked.

use crate::ids::{InstanceId, NodeName, Role};
use crate::keys::Fingerprint;
use crate::signed::{Kind, Signed, Statement};
use crate::status::State;
use crate::wire::Versioned;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// UDP: short answers; TCP (TLS): full status and inventory.
pub const PORT: u16 = 7481;
/// Longest question and answer, in bytes of UDP payload.
pub const MAX_PACKET: usize = 1200;
/// Delay per node of the fleet: 10,000 answers are spread over 1.5 s, seven over a millisecond.
const DELAY_PER_NODE: Duration = Duration::from_micros(150);
/// However large the fleet is.
pub const MAX_DELAY: Duration = Duration::from_millis(1500);

/// Within how long after a question to so many agents each picks a random moment to answer.
pub fn window(fleet: u32) -> Duration {
    DELAY_PER_NODE.saturating_mul(fleet).min(MAX_DELAY)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub nonce: [u8; 16],
    /// Which operator signs; the agent looks its key up in its own roster.
    pub operator: Fingerprint,
    /// Unix milliseconds by the asker's clock; where NTP keeps the agent's, more than a minute apart is dropped.
    pub asked_at_ms: u64,
    /// How many nodes may answer: scales the random delay.
    pub fleet: u32,
    /// Makes the question at least as long as any answer to it.
    pub padding: Vec<u8>,
}

impl Versioned for Question {
    const VERSION: u8 = 1;
}

impl Statement for Question {
    const KIND: Kind = Kind::LanQuestion;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    pub nonce: [u8; 16],
    pub node: NodeName,
    pub key: Fingerprint,
    pub boot: InstanceId,
    pub sequence: u64,
    pub uptime_ms: u64,
    pub state: State,
    pub step: Option<String>,
    /// The first reason, cut at 200 bytes.
    pub reason: Option<String>,
    pub role: Role,
    pub address: Option<Ipv4Addr>,
    pub k3s_version: Option<String>,
    /// As in the status; each cut at 100 bytes.
    pub stand_ins: Vec<String>,
    pub etcd: Option<EtcdBrief>,
    pub kata: Option<String>,
    pub taints: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdBrief {
    pub voter: bool,
    pub leader: Option<u64>,
    pub member_id: u64,
    pub cluster_id: Option<u64>,
    pub members: u8,
}

impl Versioned for Brief {
    const VERSION: u8 = 1;
}

impl Statement for Brief {
    const KIND: Kind = Kind::LanAnswer;
}

/// What is said on 7481/udp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packet {
    Ask(Signed<Question>),
    /// The sender's name tells whose key to check it with.
    Answer {
        node: NodeName,
        brief: Signed<Brief>,
    },
}

impl Versioned for Packet {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_gets_the_time_that_its_agents_let_pass() {
        assert!(window(7) < Duration::from_millis(2));
        assert_eq!(window(1_000_000), MAX_DELAY);
    }
}
