//! What the servers tell the timeline, so that `muster node explain` can say how far a machine came.
//!
//! DHCP knows the machine, TFTP and HTTP only its address: `Request4011` has both, and agents report theirs.

use super::{answer::Why, firmware::Firmware};
use muster_protocol::ids::Mac;
use std::{
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEvent {
    pub at: SystemTime,
    pub mac: Option<Mac>,
    pub peer: IpAddr,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    DhcpDiscover {
        firmware: Firmware,
    },
    DhcpOffer {
        file: String,
    },
    /// The client takes the lease of that server: the usual course, nothing for us to answer.
    DhcpRequest {
        server: Option<Ipv4Addr>,
    },
    Request4011 {
        ciaddr: Ipv4Addr,
    },
    Ack4011 {
        file: String,
    },
    /// A netbooting client gets no answer.
    Ignored {
        why: Why,
    },
    /// The client asked for the size and hung up: how EDK2 begins.
    TftpProbe {
        name: String,
    },
    TftpStart {
        name: String,
    },
    TftpDone {
        name: String,
        bytes: u64,
        ms: u64,
    },
    TftpFailed {
        name: String,
        why: String,
    },
    HttpStart {
        name: String,
    },
    HttpDone {
        name: String,
        bytes: u64,
        ms: u64,
    },
    HttpFailed {
        name: String,
        why: String,
    },
}
