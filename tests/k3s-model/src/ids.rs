//! Member and cluster ids, derived as etcd derives them, and the hash that names a cluster's CA.
//!
//! Because both ids come from peer URLs, a wiped first server with its old config gets the SAME pair again; only the CA tells
//! the two clusters apart. The tests reproduce the ids of a real k3s.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// SHA-256 of what /cacerts serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaHash(pub [u8; 32]);

impl MemberId {
    /// The id of a member: of a new cluster without a time, of an added one with the seconds of the adding.
    pub fn derive(peer_url: &str, added_at_s: Option<u64>) -> Self {
        let mut text = format!("{peer_url}etcd-cluster");
        if let Some(s) = added_at_s {
            text.push_str(&format!("{s}"));
        }
        Self(first_u64(&sha1(text.as_bytes())))
    }
}

impl ClusterId {
    /// The id of a new cluster of these members.
    pub fn derive(members: &[MemberId]) -> Self {
        let mut sorted: Vec<u64> = members.iter().map(|m| m.0).collect();
        sorted.sort_unstable();
        let bytes: Vec<u8> = sorted.iter().flat_map(|id| id.to_be_bytes()).collect();
        Self(first_u64(&sha1(&bytes)))
    }
}

impl CaHash {
    /// 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(out))
    }

    /// A CA as a new cluster makes it: of luck alone.
    pub fn of_luck(mut luck: impl FnMut() -> u64) -> Self {
        let mut out = [0; 32];
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&luck().to_be_bytes());
        }
        Self(out)
    }

    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaHash({}…)", &self.hex()[..12])
    }
}

fn first_u64(hash: &[u8; 20]) -> u64 {
    hash[..8].iter().fold(0, |n, b| (n << 8) | u64::from(*b))
}

/// SHA-1 (RFC 3174): here only because etcd names its members with it.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut data = message.to_vec();
    data.push(0x80);
    while data.len() % 64 != 56 {
        data.push(0);
    }
    data.extend_from_slice(&((message.len() as u64) * 8).to_be_bytes());
    let mut h: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in data.chunks_exact(64) {
        let mut w = [0u32; 80];
        for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b));
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in h.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut out = [0; 20];
    for (bytes, word) in out.chunks_exact_mut(4).zip(h) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_agrees_with_its_rfc() {
        let hash = sha1(b"abc");
        assert_eq!(first_u64(&hash), 0xa999_3e36_4706_816a);
    }

    /// timelines/split-by-cluster-init.txt
    #[test]
    fn the_recorded_first_server_gets_its_recorded_ids() {
        let member = MemberId::derive("https://10.99.0.11:2380", None);
        assert_eq!(member, MemberId(3_420_929_696_581_089_811));
        assert_eq!(ClusterId::derive(&[member]), ClusterId(14_582_655_591_186_328_306));
    }

    #[test]
    fn an_added_member_s_id_depends_on_the_second() {
        let url = "https://10.99.0.12:2380";
        assert_ne!(MemberId::derive(url, Some(1)), MemberId::derive(url, Some(2)));
    }

    #[test]
    fn a_ca_hash_round_trips_through_hex() {
        let ca = CaHash::of_luck(|| 0x0102_0304_0506_0708);
        assert_eq!(CaHash::parse(&ca.hex()), Some(ca));
        assert_eq!(CaHash::parse("zz"), None);
    }
}
