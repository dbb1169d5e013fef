//! A file by its digest from the provisioner: resumed where it broke, believed only when the digest fits.

use crate::install::fetch::Source;
use muster_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes asked for at once: what a broken transfer loses, and what it costs in memory.
const PART: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the transfer broke after {have} of {want} bytes")]
    Broke { have: u64, want: u64, source: crate::install::fetch::FetchError },
    #[error("the fetched bytes have digest {have}, wanted was {want}; they were thrown away")]
    Digest { have: Digest, want: Digest },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Where artifacts come from, and who is told how far the present one is.
pub struct Fetcher<'a> {
    pub source: &'a mut dyn Source,
    /// Bytes done and total.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

impl Fetcher<'_> {
    /// Leaves a file with exactly this digest at `path`, or an error and at most a part to resume.
    pub fn fetch(&mut self, digest: Digest, bytes: u64, path: &Path) -> Result<(), FetchError> {
        let write = |source| FetchError::Write { path: path.into(), source };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(write)?;
        let mut hasher = Sha256::new();
        let mut have = hash(Read::by_ref(&mut file).take(bytes + 1), &mut hasher).map_err(write)?;
        if have > bytes {
            (hasher, have) = (Sha256::new(), 0);
            file.set_len(0).map_err(write)?;
            file.seek(SeekFrom::Start(0)).map_err(write)?;
        }
        let mut buffer = vec![0; usize::try_from(PART.min(bytes)).unwrap_or(0)];
        while have < bytes {
            let length = usize::try_from((bytes - have).min(PART)).unwrap_or(0);
            let part = &mut buffer[..length];
            let broke = |source| FetchError::Broke { have, want: bytes, source };
            self.source.part(&digest, have, part).map_err(broke)?;
            file.write_all(part).map_err(write)?;
            hasher.update(&*part);
            have += length as u64;
            (self.progress)(have, bytes);
        }
        let found = Digest(hasher.finalize().into());
        if found != digest {
            file.set_len(0).map_err(write)?;
            return Err(FetchError::Digest { have: found, want: digest });
        }
        file.sync_all().map_err(write)
    }
}

/// SHA-256 of a file, read in pieces.
pub fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    hash(File::open(path)?, &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

fn hash(mut from: impl Read, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::install::fetch::FetchError as Http;
    use crate::node::testing::scratch;

    /// Artifacts in memory. Breaks off at every request after `patience` of them; counts all.
    pub(crate) struct Shelf {
        pub(crate) files: Vec<Vec<u8>>,
        pub(crate) patience: usize,
        pub(crate) asked: usize,
    }

    impl Shelf {
        pub(crate) fn new(files: Vec<Vec<u8>>) -> Self {
            Self { files, patience: usize::MAX, asked: 0 }
        }
    }

    impl Source for Shelf {
        fn part(&mut self, digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), Http> {
            self.asked += 1;
            if self.patience == 0 {
                return Err(Http::Connection {
                    digest: *digest,
                    source: io::ErrorKind::ConnectionReset.into(),
                });
            }
            self.patience -= 1;
            let file = self.files.iter().find(|file| Digest::of(file) == *digest);
            let file = file.ok_or(Http::Status { digest: *digest, status: 404 })?;
            let offset = usize::try_from(offset).unwrap();
            into.copy_from_slice(&file[offset..offset + into.len()]);
            Ok(())
        }

        fn whole(&mut self, digest: &Digest, _at_most: u64) -> Result<Vec<u8>, Http> {
            Err(Http::Status { digest: *digest, status: 404 })
        }
    }

    fn fetch(shelf: &mut Shelf, file: &[u8], path: &Path) -> Result<(), FetchError> {
        let mut fetcher = Fetcher { source: shelf, progress: &mut |_, _| {} };
        fetcher.fetch(Digest::of(file), file.len() as u64, path)
    }

    #[test]
    fn a_broken_transfer_is_resumed_where_it_broke() {
        let root = scratch();
        let file: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut shelf = Shelf::new(vec![file.clone()]);
        shelf.patience = 2;
        let broke = fetch(&mut shelf, &file, &root.path("/x"));
        assert!(matches!(broke, Err(FetchError::Broke { have, .. }) if have == 2 * PART), "{broke:?}");
        shelf.patience = 1;
        fetch(&mut shelf, &file, &root.path("/x")).unwrap();
        assert_eq!(std::fs::read(root.path("/x")).unwrap(), file);
    }

    #[test]
    fn a_complete_file_is_not_fetched_again() {
        let root = scratch();
        std::fs::write(root.path("/x"), b"whole").unwrap();
        let mut shelf = Shelf::new(vec![]);
        fetch(&mut shelf, b"whole", &root.path("/x")).unwrap();
        assert_eq!(shelf.asked, 0);
    }

    #[test]
    fn wrong_bytes_are_thrown_away_and_then_fetched_anew() {
        let root = scratch();
        let mut shelf = Shelf::new(vec![b"right".to_vec()]);
        for bad in [b"WR".as_slice(), b"wrong", b"much too long"] {
            std::fs::write(root.path("/x"), bad).unwrap();
            if let Err(error) = fetch(&mut shelf, b"right", &root.path("/x")) {
                assert!(matches!(error, FetchError::Digest { .. }));
                assert_eq!(std::fs::metadata(root.path("/x")).unwrap().len(), 0);
                fetch(&mut shelf, b"right", &root.path("/x")).unwrap();
            }
            assert_eq!(std::fs::read(root.path("/x")).unwrap(), b"right");
        }
    }

    #[test]
    fn an_absent_file_is_an_error() {
        let root = scratch();
        let absent = fetch(&mut Shelf::new(vec![]), b"x", &root.path("/x"));
        assert!(matches!(absent, Err(FetchError::Broke { source: Http::Status { status: 404, .. }, .. })));
    }
}
