//! DHCP options: the numbers we know, a container that keeps order, and typed readings.

use super::Malformed;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// Option numbers (RFC 2132 unless said).
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const NTP: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    /// RFC 3004.
    pub const USER_CLASS: u8 = 77;
    /// RFC 3046.
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 4578 §2.1: client system architecture.
    pub const ARCHITECTURE: u8 = 93;
    /// RFC 4578 §2.2: network interface identifier.
    pub const NETWORK_INTERFACE: u8 = 94;
    /// RFC 4578 §2.3: machine identifier (GUID).
    pub const MACHINE_ID: u8 = 97;
    pub const END: u8 = 255;
}

/// Option 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl MessageType {
    pub const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];
}

/// Options in the order they were put in; one number once (RFC 3396: later pieces are joined to the first).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// The bytes of an option.
    pub fn bytes(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(have, _)| *have == code).map(|(_, value)| value.as_slice())
    }

    /// Puts an option in, in place of an older value; pad and end are no options and are left out.
    pub fn set(&mut self, code: u8, value: &[u8]) -> &mut Self {
        match self.0.iter_mut().find(|(have, _)| *have == code) {
            _ if code == code::PAD || code == code::END => {}
            Some((_, old)) => *old = value.into(),
            None => self.0.push((code, value.into())),
        }
        self
    }

    /// Puts an address in.
    pub fn set_address(&mut self, code: u8, address: Ipv4Addr) -> &mut Self {
        self.set(code, &address.octets())
    }

    /// Puts the message type in.
    pub fn set_message(&mut self, message: MessageType) -> &mut Self {
        self.set(code::MESSAGE_TYPE, &[message as u8])
    }

    /// Takes an option out.
    pub fn take(&mut self, code: u8) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(have, _)| *have == code)?;
        Some(self.0.remove(at).1)
    }

    /// Numbers and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    pub fn message(&self) -> Option<MessageType> {
        let number = self.fixed::<1>(code::MESSAGE_TYPE)?[0];
        MessageType::ALL.into_iter().find(|message| *message as u8 == number)
    }

    /// An option that is exactly one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed(code).map(|octets: [u8; 4]| octets.into())
    }

    /// An option that is a list of addresses; one that is not counts as empty.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let bytes = self.bytes(code).filter(|bytes| bytes.len() % 4 == 0).unwrap_or_default();
        bytes.chunks_exact(4).map(|word| Ipv4Addr::new(word[0], word[1], word[2], word[3])).collect()
    }

    /// An option that is a number of seconds.
    pub fn seconds(&self, code: u8) -> Option<u32> {
        self.fixed(code).map(u32::from_be_bytes)
    }

    /// An option that is printable text; trailing NULs, which some clients count in, are dropped.
    pub fn text(&self, code: u8) -> Option<&str> {
        let text = core::str::from_utf8(self.bytes(code)?).ok()?.trim_end_matches('\0');
        (!text.is_empty() && !text.contains(|c: char| c.is_control())).then_some(text)
    }

    /// Option 93: the architectures a client can boot, best first; empty when the option is absent or odd.
    pub fn architectures(&self) -> Vec<u16> {
        let bytes = self.bytes(code::ARCHITECTURE).filter(|bytes| bytes.len() % 2 == 0).unwrap_or_default();
        bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.bytes(code)?.try_into().ok()
    }

    /// Reads options up to the end mark or the end of `bytes`.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&code, rest)) = bytes.split_first() {
            match code {
                code::PAD => bytes = rest,
                code::END => return Ok(()),
                code => {
                    // A number as the very last byte is an option without its length.
                    let Some((&length, rest)) = rest.split_first() else {
                        return Err(Malformed::Overrun { code, claims: 1, left: 0 });
                    };
                    let length = usize::from(length);
                    let Some((value, rest)) = rest.split_at_checked(length) else {
                        return Err(Malformed::Overrun { code, claims: length, left: rest.len() });
                    };
                    match self.0.iter_mut().find(|(have, _)| *have == code) {
                        Some((_, first)) => first.extend_from_slice(value),
                        None => self.0.push((code, value.into())),
                    }
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    /// Writes all options without the end mark; a long value in pieces of 255 (RFC 3396).
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        for (code, value) in self.iter() {
            if value.is_empty() {
                bytes.extend_from_slice(&[code, 0]);
            }
            for piece in value.chunks(255) {
                bytes.push(code);
                bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
                bytes.extend_from_slice(piece);
            }
        }
    }
}
