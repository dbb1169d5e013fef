//! A file that is written beside its place: whole under its name or gone, whatever becomes of its writer.
//!
//! Its writer holds a lock on it, so that whoever writes the next one can tell what a killed run left and remove it.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = ".partial-";

/// Removed when dropped, unless it was given its name.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    /// A new one in this folder, where those of dead writers are removed first: they can be gigabytes.
    pub fn create(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        sweep(folder)?;
        loop {
            // No process id: in containers that share a folder, all of them are the same.
            let path = folder.join(format!("{PREFIX}{:016x}", random()?));
            let partial = Self { file: File::create_new(&path)?, path };
            match partial.file.try_lock() {
                // Another's sweep was between the two steps above, and took it for a dead one.
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) if partial.file.metadata()?.nlink() == 0 => continue,
                // A file system without locks: then nobody's sweep gets one either.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(partial),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushed, readable for all and under its name, in place of what was there.
    pub fn persist(self, complete: &Path) -> io::Result<()> {
        // Whoever serves it may be another user than whoever registered it, whatever the umask.
        self.file.set_permissions(PermissionsExt::from_mode(0o644))?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, complete)?;
        File::open(complete.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _renamed = std::fs::remove_file(&self.path);
    }
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(|_| io::Error::other("the system gives no random bytes"))
}

fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _gone = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn names(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_stays() {
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join(".partial-4242-blob"), "half").unwrap();
        std::fs::write(folder.path().join("complete"), "whole").unwrap();
        let first = Partial::create(folder.path()).unwrap();
        assert_eq!(names(folder.path()), 2);
        let second = Partial::create(folder.path()).unwrap();
        assert!(first.path().exists() && second.path().exists() && first.path() != second.path());
    }

    #[test]
    fn one_that_was_given_up_is_gone() {
        let folder = tempdir().unwrap();
        drop(Partial::create(folder.path()).unwrap());
        assert_eq!(names(folder.path()), 0);
    }

    #[test]
    fn a_complete_one_has_its_name_only_and_replaces_what_was_there() {
        let folder = tempdir().unwrap();
        let complete = folder.path().join("complete");
        std::fs::write(&complete, "damaged").unwrap();
        let mut partial = Partial::create(folder.path()).unwrap();
        partial.write_all(b"whole").unwrap();
        partial.persist(&complete).unwrap();
        assert_eq!((names(folder.path()), std::fs::read(&complete).unwrap()), (1, b"whole".to_vec()));
    }
}
