//! Declared machines and what they boot: made from `cluster.toml` and the images, read by every boot answer.

use muster_protocol::ids::{Arch, Mac, NodeName};
use std::{collections::BTreeMap, fmt};

/// Who is answered, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootTable {
    /// By each MAC a machine may show.
    pub machines: BTreeMap<Mac, Declared>,
    /// What a machine boots that has nothing of its own.
    pub images: BTreeMap<Arch, BootFile>,
    /// `muster discover`: machines nobody declared are answered too.
    pub discover: bool,
}

/// A machine of `cluster.toml`, as far as booting goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub node: NodeName,
    pub system: System,
    /// The path its firmware needs.
    pub path: Path,
}

/// Whose operating system a machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// It keeps what it has: no boot answer, ever.
    Keep,
    /// Ours. An installed machine gets the very image its marker records, so that kernel and modules match.
    Muster { image: Option<BootFile> },
}

/// How the proxy's offer leads a PXE client to its boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// No option 43: the client asks again on 4011. What EDK2 wants.
    #[default]
    Binl,
    /// Quirk: option 43 with discovery control 8, "take the file from this offer", for ROMs that never ask on 4011.
    /// Some EFI firmware ignores such offers, so it is not the default.
    Bypass,
}

/// A published name that fits every place a boot answer has for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootFile(String);

/// A name that cannot be a boot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a boot file name: 5 to 90 of A-Z, a-z, 0-9, `.`, `_` and `-`, ending in `.efi`")]
pub struct BadBootFile(pub String);

impl BootFile {
    /// EDK2 takes an HTTP boot file by its `.efi`; 90 characters leave room for the URL in the `file` field.
    pub fn new(name: &str) -> Result<Self, BadBootFile> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if name.len() <= 90
            && name.bytes().all(plain)
            && name.strip_suffix(".efi").is_some_and(|s| !s.is_empty())
        {
            Ok(Self(name.into()))
        } else {
            Err(BadBootFile(name.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_file_name_fits_every_field() {
        for good in ["boot-x86_64.efi", "a.efi", &format!("{}.efi", "a".repeat(86))] {
            assert!(BootFile::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".efi",
            "boot",
            "boot.EFI",
            "../a.efi",
            "a b.efi",
            "a/b.efi",
            "ä.efi",
            &format!("{}.efi", "a".repeat(87)),
        ] {
            assert_eq!(BootFile::new(bad), Err(BadBootFile(bad.into())));
        }
    }
}
