//! The files that are served, by name. TFTP and HTTP look names up here and never walk a path.
//!
//! All transfers of one file share one open file: two hundred machines booting cost one descriptor. A file is never
//! served when it is not the regular file of the published size any more.

use muster_protocol::ids::Digest;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, Weak},
};

/// Names and what is behind them; a clone is the same table.
#[derive(Debug, Clone, Default)]
pub struct Published(Arc<RwLock<BTreeMap<String, Entry>>>);

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    size: u64,
    digest: Digest,
    open: Weak<File>,
}

/// A file to send from, by positioned reads.
#[derive(Debug, Clone)]
pub struct Opened {
    pub file: Arc<File>,
    pub size: u64,
    pub digest: Digest,
}

/// Why a name is not served.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    #[error("not published")]
    Unknown,
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not the file of {size} bytes that was published", path.display())]
    Changed { path: PathBuf, size: u64 },
}

impl Published {
    /// Serves the file at `path` under `name`, in place of what had that name; transfers under way go on.
    pub fn publish(&self, name: &str, path: &Path, size: u64, digest: Digest) {
        let entry = Entry { path: path.into(), size, digest, open: Weak::new() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), entry);
    }

    /// Serves `name` no longer; transfers under way go on.
    pub fn withdraw(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The file behind a name.
    pub fn open(&self, name: &str) -> Result<Opened, NotServed> {
        let (path, size, digest) = {
            let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let entry = table.get(name).ok_or(NotServed::Unknown)?;
            if let Some(file) = entry.open.upgrade() {
                return Ok(Opened { file, size: entry.size, digest: entry.digest });
            }
            (entry.path.clone(), entry.size, entry.digest)
        };
        // Not under the lock: a slow disk must not hold up the other names.
        let open = |path: &Path| -> io::Result<(File, bool)> {
            let metadata = std::fs::metadata(path)?;
            // Asked before the opening: a FIFO would block there.
            if !metadata.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata.is_file() && metadata.len() == size))
        };
        let (file, as_published) =
            open(&path).map_err(|source| NotServed::Open { path: path.clone(), source })?;
        if !as_published {
            return Err(NotServed::Changed { path, size });
        }
        let file = Arc::new(file);
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get_mut(name).filter(|entry| entry.digest == digest && entry.path == path)
        {
            entry.open = Arc::downgrade(&file);
        }
        Ok(Opened { file, size, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{NamedTempFile, TempPath};

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn file(bytes: &[u8]) -> TempPath {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.into_temp_path()
    }

    #[test]
    fn a_name_is_looked_up_and_nothing_else() {
        let published = Published::default();
        let path = file(b"abc");
        published.publish("boot.efi", &path, 3, digest(1));
        let first = published.open("boot.efi").unwrap();
        let second = published.open("boot.efi").unwrap();
        assert!(Arc::ptr_eq(&first.file, &second.file), "one descriptor for both");
        for name in ["", "Boot.efi", "./boot.efi", path.to_str().unwrap(), "../boot.efi"] {
            assert!(matches!(published.open(name), Err(NotServed::Unknown)), "{name}");
        }
        published.withdraw("boot.efi");
        assert!(matches!(published.open("boot.efi"), Err(NotServed::Unknown)));
    }

    #[test]
    fn a_file_that_changed_its_size_is_not_served() {
        let published = Published::default();
        let path = file(b"abcd");
        published.publish("a", &path, 3, digest(1));
        assert!(matches!(published.open("a"), Err(NotServed::Changed { .. })));
        path.close().unwrap();
        assert!(matches!(published.open("a"), Err(NotServed::Open { .. })));
        published.publish("dir", Path::new("/"), 3, digest(1));
        assert!(matches!(published.open("dir"), Err(NotServed::Open { .. })));
    }

    #[test]
    fn a_new_file_under_a_name_does_not_disturb_the_old_one() {
        let published = Published::default();
        let (old, new) = (file(b"old"), file(b"newer"));
        published.publish("a", &old, 3, digest(1));
        let before = published.open("a").unwrap();
        published.publish("a", &new, 5, digest(2));
        let after = published.open("a").unwrap();
        assert_eq!((before.size, before.digest), (3, digest(1)));
        assert_eq!((after.size, after.digest), (5, digest(2)));
        assert_eq!(before.file.metadata().unwrap().len(), 3);
    }
}
