//! The provisioner's keys on disk: 32-byte seeds in hexadecimal, mode 0600, made once by `muster init`.
//!
//! `root` delegates and then is not needed; `recovery` opens the token box of last resort. Both are meant to be taken
//! offline: nothing here fails when their files are gone.

use super::state_dir::StateDir;
use muster_protocol::keys::SecretKey;
use muster_protocol::signed::{By, Delegation, Listener, OnlineKey, Refused, Signed, Trust};
use muster_protocol::wire::{self, Undecodable};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read `{}`\nhint: `muster init` makes the keys; --state DIR or MUSTER_STATE names another place", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`", path.display())]
    Unwritable { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not 64 hexadecimal digits", path.display())]
    NotAKey { path: PathBuf },
    #[error("`{}` may be read by others (mode {mode:04o})\nhint: chmod 600 {}", path.display(), path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("`{}` cannot be decoded: {source}", path.display())]
    Undecodable { path: PathBuf, source: Undecodable },
    #[error("the delegation in `{}` is not this cluster's: {source}", path.display())]
    Delegation { path: PathBuf, source: Refused },
    #[error("`{}` delegates another online key than `{}`", delegation.display(), key.display())]
    OtherOnline { delegation: PathBuf, key: PathBuf },
}

/// Writes a new file that only its owner can read; an existing one is left alone.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let unwritable = |source| KeyError::Unwritable { path: path.to_path_buf(), source };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(unwritable)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(unwritable)
}

pub fn write_key(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in key.seed() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    write_private(path, text.as_bytes())
}

pub fn read_key(path: &Path) -> Result<SecretKey, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.to_path_buf(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_path_buf(), mode });
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let text = text.trim().as_bytes();
    let mut seed = Zeroizing::new([0; 32]);
    let digit = |c: u8| char::from(c).to_digit(16);
    let parsed = text.len() == 64
        && seed.iter_mut().zip(text.chunks_exact(2)).all(|(byte, pair)| {
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).map(|value| *byte = value).is_ok(),
                (None, _) | (_, None) => false,
            }
        });
    if !parsed {
        return Err(KeyError::NotAKey { path: path.to_path_buf() });
    }
    Ok(SecretKey::from_seed(*seed))
}

pub fn read_trust(path: &Path) -> Result<Trust, KeyError> {
    let bytes =
        std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_path_buf(), source })?;
    wire::decode(&bytes).map_err(|source| KeyError::Undecodable { path: path.to_path_buf(), source })
}

/// The online key with the root's word for it, checked against the trust file.
pub fn read_online(state: &StateDir, trust: &Trust) -> Result<OnlineKey, KeyError> {
    let secret = read_key(&state.key("online"))?;
    let path = state.delegation();
    let bytes = std::fs::read(&path).map_err(|source| KeyError::Unreadable { path: path.clone(), source })?;
    let delegation: Signed<Delegation> =
        wire::decode(&bytes).map_err(|source| KeyError::Undecodable { path: path.clone(), source })?;
    let verified = delegation
        .verify(By::Root(trust), &Listener::default())
        .map_err(|source| KeyError::Delegation { path: path.clone(), source })?
        .into_inner();
    if verified.online != secret.public().verify {
        return Err(KeyError::OtherOnline { delegation: path, key: state.key("online") });
    }
    Ok(OnlineKey { secret, delegation, number: verified.number })
}
