//! Keys: one seed per node gives its identity and its sealing key; the fingerprint covers both.

use crate::hex::hex_id;
use crate::ids::BadId;
use alloc::string::String;
use core::{fmt, str::FromStr};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

hex_id!(
    /// The public half of an ed25519 signing key.
    VerifyKey,
    32
);
hex_id!(
    /// The public half of an X25519 sealing key.
    SealKey,
    32
);

/// The public halves of a node's or an operator's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey {
    pub verify: VerifyKey,
    pub seal: SealKey,
}

impl PublicKey {
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = Sha256::new()
            .chain_update(b"muster fingerprint 1\0")
            .chain_update(self.verify.0)
            .chain_update(self.seal.0)
            .finalize();
        let mut short = [0; 10];
        short.copy_from_slice(&digest[..10]);
        Fingerprint(short)
    }
}

/// 80 bits of SHA-256 over both public keys, read aloud as four groups of four base32 characters (RFC 4648).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 10]);

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        for at in 0..16 {
            if at > 0 && at % 4 == 0 {
                f.write_str("-")?;
            }
            let index = (bits >> (75 - 5 * at)) & 31;
            write!(f, "{}", char::from(BASE32[index as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = BadId;
    /// Dashes may be left out and small letters typed: a person reads this from a console.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId::Word { text: text.into(), known: "a fingerprint such as ABCD-EFGH-IJKL-MNOP" };
        let mut bits = 0_u128;
        let mut count = 0;
        for c in text.bytes().filter(|c| *c != b'-') {
            let value = BASE32.iter().position(|b| *b == c.to_ascii_uppercase()).ok_or_else(bad)?;
            bits = bits << 5 | value as u128;
            count += 1;
            if count > 16 {
                return Err(bad());
            }
        }
        if count != 16 {
            return Err(bad());
        }
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&bits.to_be_bytes()[6..]);
        Ok(Self(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            <[u8; 10]>::deserialize(deserializer).map(Self)
        }
    }
}

/// The private side of a [`PublicKey`]: everything is derived from one seed, which never leaves its machine.
#[derive(Clone)]
pub struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
}

impl SecretKey {
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed) }
    }

    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    pub fn public(&self) -> PublicKey {
        PublicKey {
            verify: VerifyKey(self.signing().verifying_key().to_bytes()),
            seal: SealKey(x25519_dalek::PublicKey::from(&self.sealing()).to_bytes()),
        }
    }

    /// k3s's node password: 32 hexadecimal characters, the same after every reinstall with this key.
    pub fn node_password(&self) -> Zeroizing<String> {
        use core::fmt::Write;
        let mut text = Zeroizing::new(String::with_capacity(32));
        for byte in self.derive::<16>(b"muster node password 1").iter() {
            // Writing to a String has no error path.
            let _ok = write!(text, "{byte:02x}");
        }
        text
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing().sign(message).to_bytes()
    }

    pub(crate) fn sealing(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(*self.derive::<32>(b"muster sealing 1"))
    }

    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive::<32>(b"muster identity 1"))
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        // HKDF fails only above 255 × 32 bytes (RFC 5869 §2.3); N is 16 or 32.
        Hkdf::<Sha256>::new(None, &*self.seed)
            .expand(label, &mut *out)
            .expect("at most 32 bytes are asked for");
        out
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_fingerprint_is_read_back_as_typed() {
        let print = SecretKey::from_seed([7; 32]).public().fingerprint();
        let text = print.to_string();
        assert_eq!(text.len(), 19);
        assert_eq!(text.parse::<Fingerprint>().unwrap(), print);
        assert_eq!(text.to_lowercase().replace('-', "").parse::<Fingerprint>().unwrap(), print);
        assert!(text[1..].parse::<Fingerprint>().is_err());
        assert!("1111-1111-1111-1111".parse::<Fingerprint>().is_err());
    }

    #[test]
    fn the_debug_form_shows_no_seed() {
        let text = alloc::format!("{:?}", SecretKey::from_seed([0xab; 32]));
        assert!(!text.contains("ab"), "{text}");
    }

    #[test]
    fn the_node_password_is_stable_hex() {
        let password = SecretKey::from_seed([1; 32]).node_password();
        assert_eq!(password.len(), 32);
        assert_eq!(*password, *SecretKey::from_seed([1; 32]).node_password());
        assert_ne!(*password, *SecretKey::from_seed([2; 32]).node_password());
    }
}
