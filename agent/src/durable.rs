//! Files, folders and links that are on the disk when the call returns, and whole whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file beside its name, flushed, renamed, and the folder flushed.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_folder(parent)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = parent.join(beside);
    // What a crash left there has perhaps another mode; a secret must never be readable, not even half of it.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    // The umask may have taken bits from `mode` that the reader needs.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(parent)
}

/// Makes a folder and those above it, each entry flushed into its parent.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_parent(path)
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => sync_folder(parent),
        Some(_) | None => Ok(()),
    }
}

/// Points the link `path` at `target` with one rename. Returns whether it changed.
pub fn switch_link(path: &Path, target: &Path) -> io::Result<bool> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(false);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(target, &beside)?;
    fs::rename(&beside, path)?;
    sync_parent(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::scratch;

    #[test]
    fn a_link_is_switched_by_rename_and_only_when_it_differs() {
        let root = scratch();
        make_folder(&root.path("/k")).unwrap();
        let link = root.path("/k/current");
        assert!(switch_link(&link, Path::new("v1")).unwrap());
        assert!(!switch_link(&link, Path::new("v1")).unwrap());
        assert!(switch_link(&link, Path::new("v2")).unwrap());
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("v2"));
    }
}
