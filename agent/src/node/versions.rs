//! Folders by version, complete or not there: `<version>.partial` is filled, flushed and renamed; the link `current` is
//! switched by one more rename.

use crate::durable::{make_folder, switch_link, sync_folder};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    #[error("`{version}` cannot be the name of a folder")]
    Name { version: String },
    #[error("cannot prepare {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// One version of one thing below its base folder.
#[derive(Debug, Clone)]
pub struct Version {
    base: PathBuf,
    name: String,
}

impl Version {
    pub fn new(base: PathBuf, version: &str) -> Result<Self, VersionError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
        let sane = version.starts_with(|c: char| c.is_ascii_alphanumeric()) && version.chars().all(fits);
        let ours = version == "current" || version.ends_with(".partial") || version.ends_with(".damaged");
        if !sane || ours || version.len() > 100 {
            return Err(VersionError::Name { version: version.into() });
        }
        Ok(Self { base, name: version.into() })
    }

    /// Where it lies when complete.
    pub fn path(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    pub fn partial(&self) -> PathBuf {
        self.base.join(format!("{}.partial", self.name))
    }

    pub fn current(base: &Path) -> Option<String> {
        fs::read_link(base.join("current")).ok()?.to_str().map(str::to_owned)
    }

    pub fn is_current(&self) -> bool {
        Self::current(&self.base).as_deref() == Some(&self.name)
    }

    /// The folder to fill; what an earlier try left in it stays.
    pub fn open_partial(&self) -> Result<PathBuf, VersionError> {
        let path = self.partial();
        make_folder(&path).map_err(|source| VersionError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    /// Throws away what an earlier try left.
    pub fn clear_partial(&self) -> Result<(), VersionError> {
        let path = self.partial();
        remove_tree(&path).map_err(|source| VersionError::Io { path, source })
    }

    /// Everything in the partial folder is on the disk before its name says complete.
    pub fn complete(&self) -> Result<(), VersionError> {
        let (partial, path) = (self.partial(), self.path());
        let damaged = self.damaged();
        let done = (|| {
            sync_file_system(&partial)?;
            remove_tree(&damaged)?;
            if path.symlink_metadata().is_ok() {
                // A folder cannot be renamed over a full one; for a moment there is none, and the next try heals that.
                fs::rename(&path, &damaged)?;
            }
            fs::rename(&partial, &path)?;
            sync_folder(&self.base)?;
            remove_tree(&damaged)
        })();
        done.map_err(|source| VersionError::Io { path, source })
    }

    /// The damaged folder that [`Self::complete`] had put aside when it was cut.
    pub fn clear_damaged(&self) -> Result<(), VersionError> {
        let path = self.damaged();
        remove_tree(&path).map_err(|source| VersionError::Io { path, source })
    }

    fn damaged(&self) -> PathBuf {
        self.base.join(format!("{}.damaged", self.name))
    }

    /// Points `current` here; with another version there, only when `may_replace`. Returns whether it points here now.
    pub fn switch(&self, may_replace: bool) -> Result<bool, VersionError> {
        let link = self.base.join("current");
        if !may_replace && fs::read_link(&link).is_ok_and(|now| now != Path::new(&self.name)) {
            return Ok(false);
        }
        switch_link(&link, Path::new(&self.name))
            .map(|_changed| true)
            .map_err(|source| VersionError::Io { path: link, source })
    }
}

/// One flush of the whole file system instead of one per file of thousands.
fn sync_file_system(path: &Path) -> io::Result<()> {
    nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::scratch;

    #[test]
    fn a_version_is_one_plain_folder_name() {
        for good in ["v1.36.3+k3s1", "4.1.0", "1"] {
            assert!(Version::new("/x".into(), good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "current",
            "1.partial",
            "1.damaged",
            ".hidden",
            "a b",
            &"1".repeat(101),
        ] {
            assert!(Version::new("/x".into(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_version_is_switched_to_only_when_allowed() {
        let root = scratch();
        let version = |name| Version::new(root.path("/k"), name).unwrap();
        for name in ["1", "2"] {
            fs::write(version(name).open_partial().unwrap().join("f"), name).unwrap();
            version(name).complete().unwrap();
        }
        assert!(version("1").switch(false).unwrap() && version("1").is_current());
        assert!(!version("2").switch(false).unwrap() && version("1").is_current());
        assert!(version("2").switch(true).unwrap() && version("2").is_current());
    }

    #[test]
    fn a_damaged_folder_is_replaced_whole() {
        let root = scratch();
        let version = Version::new(root.path("/k"), "1").unwrap();
        for text in ["bad", "good"] {
            fs::write(version.open_partial().unwrap().join("f"), text).unwrap();
            version.complete().unwrap();
        }
        assert_eq!(fs::read_to_string(version.path().join("f")).unwrap(), "good");
        assert_eq!(fs::read_dir(root.path("/k")).unwrap().count(), 1);
    }
}
