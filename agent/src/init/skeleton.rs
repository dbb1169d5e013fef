//! An empty data partition becomes a `/var`: what the image ships in `/usr/share/factory/var` is copied where nothing
//! is yet. Nothing is ever overwritten or removed, so it is right at every boot, and after an upgrade too.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

/// How many files were copied.
pub(super) fn fill(from: &Path, to: &Path) -> io::Result<usize> {
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let source = entry.path();
        let metadata = fs::symlink_metadata(&source)?;
        let there = fs::symlink_metadata(&target);
        if metadata.is_dir() {
            match there {
                // A folder's link (such as /var/run) stays what it is on the disk.
                Ok(there) if !there.is_dir() => continue,
                Ok(_) => {}
                Err(_) => {
                    fs::create_dir(&target)?;
                    chown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
                    fs::set_permissions(&target, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
                }
            }
            copied += fill(&source, &target)?;
        } else if there.is_err() {
            if metadata.is_symlink() {
                symlink(fs::read_link(&source)?, &target)?;
                lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            } else if metadata.is_file() {
                fs::copy(&source, &target)?;
                chown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            } else {
                continue;
            }
            copied += 1;
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_the_rest_comes() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::create_dir_all(from.join("lib/dpkg")).unwrap();
        fs::create_dir_all(to.join("lib")).unwrap();
        fs::write(from.join("lib/dpkg/status"), "new").unwrap();
        fs::write(from.join("lib/kept"), "new").unwrap();
        fs::write(to.join("lib/kept"), "old").unwrap();
        symlink("/run", from.join("run")).unwrap();

        assert_eq!(fill(&from, &to).unwrap(), 2);
        assert_eq!(fs::read_to_string(to.join("lib/kept")).unwrap(), "old");
        assert_eq!(fs::read_to_string(to.join("lib/dpkg/status")).unwrap(), "new");
        assert_eq!(fs::read_link(to.join("run")).unwrap(), Path::new("/run"));
        assert_eq!(fill(&from, &to).unwrap(), 0, "a second time changes nothing");
    }
}
