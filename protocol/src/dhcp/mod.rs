//! DHCP packets (RFC 2131, 2132, 3396, PXE 2.1) as far as netboot and our own client need them.
//!
//! The codec keeps every option as bytes and gives the known ones a typed reading; a reading of the wrong length is
//! `None`, never an error, because one odd option must not hide the rest of a packet. It refuses what cannot be a
//! packet on Ethernet at all. Policy (who is answered) lives elsewhere.

/// What our own client says and reads.
pub mod client;
/// Options: numbers, container, typed readings.
pub mod options;

use crate::ids::Mac;
use alloc::{vec, vec::Vec};
use core::net::Ipv4Addr;
pub use options::{MessageType, Options, code};

/// One BOOTP/DHCP packet between Ethernet machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub op: Op,
    pub hops: u8,
    pub xid: u32,
    pub secs: u16,
    /// The client cannot receive unicast before it has an address.
    pub broadcast: bool,
    pub ciaddr: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub mac: Mac,
    pub sname: Field<SNAME>,
    pub file: Field<FILE>,
    pub options: Options,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Request,
    Reply,
}

/// Why bytes are not a packet for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{have} bytes are shorter than a header and the magic ({need})", need = HEADER + 4)]
    Short { have: usize },
    #[error("operation {0} is neither request nor reply")]
    Op(u8),
    #[error("hardware type {htype} with {hlen} bytes of address is not Ethernet")]
    Hardware { htype: u8, hlen: u8 },
    #[error("no DHCP magic: a BOOTP packet or something else")]
    Magic,
    #[error("option {code} claims {claims} bytes where {left} are left")]
    Overrun { code: u8, claims: usize, left: usize },
    #[error("option overload {0} is not 1, 2 or 3")]
    Overload(u8),
}

impl Packet {
    /// An empty packet of `mac`.
    pub fn new(op: Op, xid: u32, mac: Mac) -> Self {
        Self {
            op,
            hops: 0,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            mac,
            sname: Field::default(),
            file: Field::default(),
            options: Options::default(),
        }
    }

    /// Reads a packet; tolerates a missing end mark, as many ROMs and all servers do.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, options) = bytes
            .split_at_checked(HEADER)
            .and_then(|(header, rest)| rest.split_at_checked(4).map(|(magic, rest)| (header, magic, rest)))
            .ok_or(Malformed::Short { have: bytes.len() })
            .and_then(
                |(header, magic, rest)| {
                    if magic == MAGIC { Ok((header, rest)) } else { Err(Malformed::Magic) }
                },
            )?;
        let op = match header[0] {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(Malformed::Op(other)),
        };
        if (header[1], header[2]) != (ETHERNET, 6) {
            return Err(Malformed::Hardware { htype: header[1], hlen: header[2] });
        }
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let sname = &header[44..44 + SNAME];
        let file = &header[108..108 + FILE];
        let mut packet = Self {
            op,
            hops: header[3],
            xid: u32::from_be_bytes(word(4)),
            secs: u16::from_be_bytes([header[8], header[9]]),
            broadcast: header[10] & 0x80 != 0,
            ciaddr: word(12).into(),
            yiaddr: word(16).into(),
            siaddr: word(20).into(),
            giaddr: word(24).into(),
            mac: Mac([header[28], header[29], header[30], header[31], header[32], header[33]]),
            sname: Field::default(),
            file: Field::default(),
            options: Options::default(),
        };
        packet.options.read(options)?;
        // RFC 2131 §4.1: `options`, then `file`, then `sname`. The overload option is taken out, so that what is
        // encoded again is not overloaded, and an overload inside an overloaded field means nothing.
        let overload = packet.options.take(code::OVERLOAD);
        let (in_file, in_sname) = match overload.as_deref() {
            None => (false, false),
            Some([1]) => (true, false),
            Some([2]) => (false, true),
            Some([3]) => (true, true),
            Some(other) => return Err(Malformed::Overload(other.first().copied().unwrap_or(0))),
        };
        for (overloaded, field) in [(in_file, file), (in_sname, sname)] {
            if overloaded {
                packet.options.read(field)?;
            }
        }
        packet.options.take(code::OVERLOAD);
        if !in_file {
            packet.file = Field::read(file);
        }
        if !in_sname {
            packet.sname = Field::read(sname);
        }
        Ok(packet)
    }

    /// Writes the packet, padded to the 300 bytes that BOOTP relays and old ROMs expect.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        bytes[1] = ETHERNET;
        bytes[2] = 6;
        bytes[3] = self.hops;
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.secs.to_be_bytes());
        bytes[10] = u8::from(self.broadcast) << 7;
        for (at, address) in [(12, self.ciaddr), (16, self.yiaddr), (20, self.siaddr), (24, self.giaddr)] {
            bytes[at..at + 4].copy_from_slice(&address.octets());
        }
        bytes[28..34].copy_from_slice(&self.mac.0);
        for (at, field) in [(44, self.sname.as_bytes()), (108, self.file.as_bytes())] {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        bytes.extend_from_slice(&MAGIC);
        self.options.write(&mut bytes);
        bytes.push(code::END);
        bytes.resize(bytes.len().max(SHORTEST), code::PAD);
        bytes
    }
}

/// A text of the fixed header: at most `N` bytes, no NUL inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Field<const N: usize>(Vec<u8>);

impl<const N: usize> Field<N> {
    /// `None` if it does not fit with the NUL that many ROMs rely on, or has one inside.
    pub fn new(text: &[u8]) -> Option<Self> {
        (text.len() < N && !text.contains(&0)).then(|| Self(text.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Up to the first NUL; a full field without one is what some servers send.
    fn read(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().take_while(|byte| *byte != 0).take(N).collect())
    }
}

/// `sname` (RFC 2131 §2).
pub const SNAME: usize = 64;
/// `file`, the boot file (RFC 2131 §2).
pub const FILE: usize = 128;
/// Everything before the magic.
const HEADER: usize = 236;
/// RFC 2131 §3: 99, 130, 83, 99.
const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Hardware type of RFC 1700.
const ETHERNET: u8 = 1;
/// RFC 951: 300 bytes.
const SHORTEST: usize = 300;

#[cfg(test)]
mod tests;
