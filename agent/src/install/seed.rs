//! `seed`: what the data partition holds from the start. It will be `/var` of the installed system.
//!
//! Secrets lie here and nowhere else on the disk: the node key, readable by root alone.

use super::claim::Held;
use muster_protocol::ids::Digest;
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::manifest::Manifest;
use muster_protocol::signed::Trust;
use muster_protocol::wire;
use std::fmt;
use zeroize::Zeroizing;

/// A file or, when it has no bytes to hold, a folder; the path is relative to the data partition's root.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    pub path: &'static str,
    pub mode: u32,
    pub what: Content,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    Folder,
    File(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Seed {
    /// Without the bytes: one of them is the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:o})", self.path, self.mode)
    }
}

/// Folders come before what is in them.
pub fn seeds(held: &Held, trust: &Trust, key: &SecretKey) -> Vec<Seed> {
    let folder = |path, mode| Seed { path, mode, what: Content::Folder };
    let file = |path, mode, bytes: Vec<u8>| Seed { path, mode, what: Content::File(Zeroizing::new(bytes)) };
    vec![
        folder("lib", 0o755),
        folder("lib/muster", 0o755),
        file("lib/muster/node.key", 0o600, key.seed().to_vec()),
        file("lib/muster/trust", 0o644, wire::encode(trust)),
        file("lib/muster/manifest", 0o644, held.signed_manifest.clone()),
        file("lib/muster/roster", 0o644, held.signed_roster.clone()),
        file("lib/muster/machine-id", 0o444, machine_id(&key.public()).into_bytes()),
        folder("lib/muster/ssh", 0o700),
        file("lib/muster/ssh/authorized_keys", 0o600, authorized_keys(held.manifest.get()).into_bytes()),
        folder("lib/muster/etc-rancher", 0o755),
        folder("lib/muster/gate", 0o700),
        folder("lib/muster/k3s", 0o755),
        folder("lib/muster/kata", 0o755),
        folder("lib/muster/log", 0o755),
        folder("lib/rancher", 0o755),
    ]
}

/// machine-id(5): 32 hexadecimal digits, the same after every reinstall with this key; no secret, since it is made
/// of the public half. The bits of a random UUID are set as systemd asks for.
fn machine_id(key: &PublicKey) -> String {
    let mut seed = b"muster machine id 1\0".to_vec();
    seed.extend_from_slice(&key.verify.0);
    let mut id = [0; 16];
    id.copy_from_slice(&Digest::of(&seed).0[..16]);
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let mut text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    text
}

/// One key a line. A key with a line break in it would be two; such a thing is left out.
fn authorized_keys(manifest: &Manifest) -> String {
    let one_line = |key: &&String| !key.chars().any(char::is_control);
    manifest.authorized_keys.iter().filter(one_line).map(|key| format!("{key}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_stable_and_well_formed() {
        let key = SecretKey::from_seed([1; 32]).public();
        let id = machine_id(&key);
        assert_eq!(id, machine_id(&key));
        assert_eq!(id.len(), 33);
        assert!(id.trim_end().chars().all(|c| c.is_ascii_hexdigit()) && &id[12..13] == "4");
        assert_ne!(id, machine_id(&SecretKey::from_seed([2; 32]).public()));
    }
}
