//! Files that are served by their digest, and the register that says what they are.
//!
//! A file is complete under its name or it is not there: written aside, flushed, renamed. Older artifacts stay, because
//! a disk may hold a system that was made from them.

use super::partial::Partial;
use super::rows::{ARTIFACTS, ArtifactFile, ArtifactKind, ArtifactRow};
use super::{Read, StoreError, Tx};
use muster_protocol::ids::{Arch, Digest};
use sha2::Digest as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Where the file with this digest is or will be.
pub fn path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(digest.to_string())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let path = path.to_path_buf();
    move |source| StoreError::File { path, source }
}

/// Copies a file in, and tells its digest.
pub fn put_file(folder: &Path, source: &Path, name: &str, mode: u32) -> Result<ArtifactFile, StoreError> {
    let mut from = std::fs::File::open(source).map_err(failed(source))?;
    put(folder, name, mode, |chunk| from.read(chunk).map_err(failed(source)))
}

pub fn put_bytes(folder: &Path, mut bytes: &[u8], name: &str, mode: u32) -> Result<ArtifactFile, StoreError> {
    put(folder, name, mode, |chunk| bytes.read(chunk).map_err(failed(Path::new(name))))
}

fn put(
    folder: &Path,
    name: &str,
    mode: u32,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, StoreError>,
) -> Result<ArtifactFile, StoreError> {
    let mut to = Partial::create(folder).map_err(failed(folder))?;
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let n = read(&mut chunk)?;
        if n == 0 {
            break;
        }
        hash.update(&chunk[..n]);
        to.write_all(&chunk[..n]).map_err(failed(to.path()))?;
        bytes += n as u64;
    }
    let digest = Digest(hash.finalize().into());
    let complete = path(folder, &digest);
    to.persist(&complete).map_err(failed(&complete))?;
    Ok(ArtifactFile { path: name.into(), mode, digest, bytes })
}

/// Registers an artifact whose files are in place.
pub fn register(tx: &mut Tx, folder: &Path, row: &ArtifactRow) -> Result<(), StoreError> {
    for file in &row.files {
        let path = path(folder, &file.digest);
        let size = std::fs::metadata(&path).map_err(failed(&path))?.len();
        if size != file.bytes {
            let wrong = std::io::Error::other(format!("it has {size} bytes, {} were registered", file.bytes));
            return Err(failed(&path)(wrong));
        }
    }
    tx.put(ARTIFACTS, &key(row), row)
}

fn key(row: &ArtifactRow) -> String {
    let first = row.files.first().map_or_else(String::new, |file| file.digest.to_string());
    format!("{}/{}/{}/{first}", word(row.kind), row.arch, row.version)
}

pub fn word(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Uki => "uki",
        ArtifactKind::Loader => "loader",
        ArtifactKind::NodeImage => "node-image",
        ArtifactKind::Kata => "kata",
        ArtifactKind::K3s => "k3s",
    }
}

/// The one registered last, of this version where one is given.
pub fn latest(
    view: &impl Read,
    kind: ArtifactKind,
    arch: Arch,
    version: Option<&str>,
) -> Result<Option<ArtifactRow>, StoreError> {
    let prefix = match version {
        Some(version) => format!("{}/{arch}/{version}/", word(kind)),
        None => format!("{}/{arch}/", word(kind)),
    };
    let rows = view.all(ARTIFACTS, &prefix)?;
    Ok(rows.into_iter().map(|(_, row)| row).max_by_key(|row| row.registered_unix_ms))
}

impl ArtifactRow {
    pub fn file(&self, name: &str) -> Option<&ArtifactFile> {
        self.files.iter().find(|file| file.path == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn a_registered_artifact_is_found_and_the_newest_wins() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let store = Store::create(&folder.join("store.redb")).unwrap();
        for (content, at) in [("old", 1), ("new", 2)] {
            let file = put_bytes(folder, content.as_bytes(), "boot.efi", 0o644).unwrap();
            assert_eq!(std::fs::read(path(folder, &file.digest)).unwrap(), content.as_bytes());
            let row = ArtifactRow {
                kind: ArtifactKind::Uki,
                arch: Arch::X86_64,
                version: "1".into(),
                files: vec![file],
                kernel_release: None,
                stand_in: None,
                registered_unix_ms: at,
            };
            store.write(|tx| register(tx, folder, &row)).unwrap();
        }
        let view = store.view().unwrap();
        let found = latest(&view, ArtifactKind::Uki, Arch::X86_64, None).unwrap().unwrap();
        assert_eq!(found.files[0].digest, Digest::of(b"new"));
        assert_eq!(latest(&view, ArtifactKind::Uki, Arch::Aarch64, None).unwrap(), None);
    }

    #[test]
    fn a_missing_file_is_not_registered() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let store = Store::create(&folder.join("store.redb")).unwrap();
        let file = ArtifactFile { path: "x".into(), mode: 0, digest: Digest([1; 32]), bytes: 1 };
        let row = ArtifactRow {
            kind: ArtifactKind::Kata,
            arch: Arch::X86_64,
            version: "1".into(),
            files: vec![file],
            kernel_release: None,
            stand_in: None,
            registered_unix_ms: 0,
        };
        assert!(store.write(|tx| register(tx, folder, &row)).is_err());
    }
}
