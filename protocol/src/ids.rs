//! Names, numbers and digests, parsed once into types that cannot be wrong.

use crate::hex::{hex_id, parse_hex};
use alloc::{format, string::String, vec::Vec};
use core::{fmt, net::Ipv4Addr, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    #[error(
        "`{text}` is not a node name: 1 to 40 of a-z, 0-9 and `-`, starting and ending with a letter or digit"
    )]
    NodeName { text: String },
    #[error("`{text}` is not a MAC address such as 52:54:00:00:00:11")]
    Mac { text: String },
    #[error("`{text}` is not {bytes} bytes of hexadecimal")]
    Hex { text: String, bytes: usize },
    #[error("`{text}` is not an address with its prefix length such as 10.77.0.11/24")]
    Cidr { text: String },
    #[error("`{text}` is not one of {known}")]
    Word { text: String, known: &'static str },
}

hex_id!(
    /// Which cluster: 16 random bytes made by `muster init`.
    ClusterId,
    16
);
hex_id!(
    /// SHA-256 of a file or a body.
    Digest,
    32
);
hex_id!(
    /// One start of one process or machine: random, so that a restart is told from a pause.
    InstanceId,
    8
);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// A node's name: a DNS label (RFC 1123), short enough for k3s's member names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let edge = |c: Option<&u8>| c.is_some_and(|c| *c != b'-');
        let bytes = text.as_bytes();
        if (1..=40).contains(&bytes.len())
            && bytes.iter().all(|c| inner(*c))
            && edge(bytes.first())
            && edge(bytes.last())
        {
            Ok(Self(text.into()))
        } else {
            Err(BadId::NodeName { text: text.into() })
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId::Mac { text: text.into() };
        let hex: Vec<&str> = text.split([':', '-']).collect();
        if hex.len() != 6 || hex.iter().any(|pair| pair.len() != 2) {
            return Err(bad());
        }
        parse_hex(&hex.concat()).map(Self).ok_or_else(bad)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            <[u8; 6]>::deserialize(deserializer).map(Self)
        }
    }
}

/// An IPv4 address with the length of its network's prefix: an interface's, or a machine's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// With the mask as a kernel tells it: ones, then zeros.
    pub fn of_mask(address: Ipv4Addr, mask: Ipv4Addr) -> Self {
        Self { address, prefix: u32::from(mask).leading_ones() as u8 }
    }

    /// Whether `other` is on the same link.
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        self.address & self.mask() == other & self.mask()
    }

    /// Everybody on this link.
    pub fn broadcast(&self) -> Ipv4Addr {
        self.address | !self.mask()
    }

    fn mask(&self) -> Ipv4Addr {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0).into()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId::Cidr { text: text.into() };
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address = address.parse().map_err(|_| bad())?;
        let prefix = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix)).ok_or_else(bad)?;
        Ok(Self { address, prefix })
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.address.octets(), self.prefix).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
        } else {
            let (octets, prefix) = <([u8; 4], u8)>::deserialize(deserializer)?;
            format!("{}/{prefix}", Ipv4Addr::from(octets))
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// A closed set of words, the same in TOML, JSON, on screen and (as its index) on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.word())
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::ids::BadId;
            fn from_str(text: &str) -> Result<Self, $crate::ids::BadId> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    text => Err($crate::ids::BadId::Word { text: text.into(), known: concat!($("`", $word, "` "),+) }),
                }
            }
        }
    };
}
pub(crate) use words;

words!(
    /// What a node does in the cluster.
    Role { Server = "server", Worker = "worker" }
);
words!(
    /// Processor architecture, by the kernel's words.
    Arch { X86_64 = "x86_64", Aarch64 = "aarch64" }
);

/// A counter that survives key rotation and restores: compares as (delegation, generation, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Number {
    /// Numbered by the root key; a newer one resets the rest.
    pub delegation: u32,
    /// Rises with every restore of the provisioner's store.
    pub generation: u32,
    pub n: u64,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.delegation, self.generation, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_node_name_is_a_dns_label() {
        for good in ["a", "mini-pc-1", "0", "x9"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ä", "a b", &"a".repeat(41)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mac_round_trips_through_text() {
        let mac: Mac = "52:54:00:AA:00:11".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:aa:00:11");
        for bad in ["", "52:54", "52:54:00:00:00:1g", "525400000011", "52:54:00:00:00:111"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_compare_by_delegation_first() {
        let number = |delegation, generation, n| Number { delegation, generation, n };
        assert!(number(1, 0, 0) > number(0, 9, 9));
        assert!(number(0, 1, 0) > number(0, 0, 99));
        assert!(number(0, 0, 2) > number(0, 0, 1));
    }

    #[test]
    fn a_cidr_knows_its_link() {
        let cidr: Cidr = "10.77.0.11/24".parse().unwrap();
        assert!(cidr.contains("10.77.0.254".parse().unwrap()));
        assert!(!cidr.contains("10.77.1.1".parse().unwrap()));
        for bad in ["10.77.0.11", "10.77.0.11/33", "10.77.0/24", "10.77.0.11/0", "::1/64"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cidr_is_made_from_any_mask_and_knows_its_broadcast() {
        let [own, near, far] = [[10, 77, 0, 11], [10, 77, 0, 10], [10, 77, 0, 9]].map(Ipv4Addr::from);
        for (mask, prefix, broadcast, held) in [
            ([255, 255, 255, 255], 32, [10, 77, 0, 11], [true, false, false]),
            ([255, 255, 255, 254], 31, [10, 77, 0, 11], [true, true, false]),
            ([255, 255, 255, 0], 24, [10, 77, 0, 255], [true, true, true]),
            ([0, 0, 0, 0], 0, [255, 255, 255, 255], [true, true, true]),
        ] {
            let cidr = Cidr::of_mask(own, mask.into());
            assert_eq!(cidr, Cidr { address: own, prefix });
            assert_eq!(cidr.broadcast(), Ipv4Addr::from(broadcast), "{cidr}");
            assert_eq!([own, near, far].map(|other| cidr.contains(other)), held, "{cidr}");
        }
    }
}
