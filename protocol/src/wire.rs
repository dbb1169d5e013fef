//! How every statement is written down: one version byte, then a postcard body, and nothing behind it.
//!
//! postcard structs cannot grow at the end, so a change makes a new version with its own type; a reader that meets
//! a newer version says so instead of guessing.

use alloc::vec::Vec;
use serde::{Serialize, de::DeserializeOwned};

/// A type with a number for its present shape.
pub trait Versioned: Serialize + DeserializeOwned {
    const VERSION: u8;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    #[error("the message is empty")]
    Empty,
    #[error("the message has version {have}, this program understands {want}; update the older side")]
    Version { have: u8, want: u8 },
    #[error("the message is cut short, has bytes left over, or holds a value out of range")]
    Malformed,
}

/// Version byte and body.
pub fn encode<T: Versioned>(value: &T) -> Vec<u8> {
    // Serialising plain data into a growing Vec has no way to fail; an empty message is refused by every reader.
    postcard::to_extend(value, alloc::vec![T::VERSION]).unwrap_or_default()
}

/// The one reader of [`encode`]'s bytes: exact version, whole input, and only the canonical spelling.
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, Undecodable> {
    let (version, body) = bytes.split_first().ok_or(Undecodable::Empty)?;
    if *version != T::VERSION {
        return Err(Undecodable::Version { have: *version, want: T::VERSION });
    }
    let (value, rest) = postcard::take_from_bytes::<T>(body).map_err(|_| Undecodable::Malformed)?;
    // postcard reads over-long varints; one value must have one spelling, or "the same number with other bytes"
    // would not be the same question as "another statement".
    if !rest.is_empty() || encode(&value) != bytes {
        return Err(Undecodable::Malformed);
    }
    Ok(value)
}
