//! Puts k3s's files where its unit finds them: `/var/lib/muster/k3s/<version>/`, complete or not there.

use crate::durable::{make_folder, sync_folder};
use crate::node::fetch::{FetchError, Fetcher, digest_of};
use crate::node::versions::{Version, VersionError};
use crate::state::Root;
use muster_protocol::manifest::{K3s, PlacedFile};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

pub const BASE: &str = "/var/lib/muster/k3s";
/// Where k3s imports image archives from; files below `images/` are linked there.
const IMAGES: &str = "/var/lib/rancher/k3s/agent/images";

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("`{path}` in the manifest is not a path below its folder")]
    Path { path: String },
    #[error("cannot fetch {path}")]
    Fetch { path: String, source: FetchError },
    #[error("{path} is missing and there is no provisioner to fetch it from yet")]
    NoSource { path: String },
    #[error("cannot place {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What lies there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Something was fetched or switched.
    pub changed: bool,
    /// The wanted version is the one that the next start of k3s uses.
    pub current: bool,
}

/// `may_replace`: whether another version that is current may be replaced; on a node that runs, only an upgrade may.
pub fn place(
    root: &Root,
    wanted: &K3s,
    source: Option<&mut Fetcher<'_>>,
    may_replace: bool,
) -> Result<Placed, PlaceError> {
    let version = Version::new(root.path(BASE), &wanted.version)?;
    for file in &wanted.files {
        check_path(&file.path)?;
    }
    let complete = wanted.files.iter().all(|file| holds(&version.path(), file));
    if !complete {
        fill(&version, wanted, source)?;
    }
    let was_current = version.is_current();
    let current = version.switch(may_replace)?;
    if current {
        link_images(root, &version.path(), wanted)?;
    }
    Ok(Placed { changed: !complete || (current && !was_current), current })
}

fn fill(version: &Version, wanted: &K3s, mut source: Option<&mut Fetcher<'_>>) -> Result<(), PlaceError> {
    let partial = version.open_partial()?;
    for file in &wanted.files {
        let to = partial.join(&file.path);
        let io = |source| PlaceError::Io { path: to.clone(), source };
        if let Some(folder) = to.parent() {
            make_folder(folder).map_err(io)?;
        }
        if holds(&partial, file) {
            continue;
        }
        let kept = version.path().join(&file.path);
        if holds(&version.path(), file) && fs::hard_link(&kept, &to).is_ok() {
            continue;
        }
        let Some(source) = source.as_deref_mut() else {
            return Err(PlaceError::NoSource { path: file.path.clone() });
        };
        source
            .fetch(file.digest, file.bytes, &to)
            .map_err(|source| PlaceError::Fetch { path: file.path.clone(), source })?;
        fs::set_permissions(&to, fs::Permissions::from_mode(file.mode & 0o777)).map_err(io)?;
    }
    Ok(version.complete()?)
}

/// Whether the file is there with its mode and its very bytes.
fn holds(folder: &Path, file: &PlacedFile) -> bool {
    let path = folder.join(&file.path);
    let fits = path.symlink_metadata().is_ok_and(|found| {
        found.is_file()
            && found.len() == file.bytes
            && found.permissions().mode() & 0o7777 == file.mode & 0o777
    });
    fits && digest_of(&path).is_ok_and(|digest| digest == file.digest)
}

fn link_images(root: &Root, from: &Path, wanted: &K3s) -> Result<(), PlaceError> {
    for file in &wanted.files {
        let Some(name) = file.path.strip_prefix("images/") else { continue };
        let folder = root.path(IMAGES);
        let (kept, to) = (from.join(&file.path), folder.join(name));
        let done = (|| {
            make_folder(to.parent().unwrap_or(&folder))?;
            use std::os::unix::fs::MetadataExt;
            if let (Ok(a), Ok(b)) = (fs::metadata(&kept), fs::metadata(&to))
                && (a.dev(), a.ino()) == (b.dev(), b.ino())
            {
                return Ok(());
            }
            match fs::remove_file(&to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // One file system by the disk's layout; a copy where a lab's root is not.
            fs::hard_link(&kept, &to).or_else(|_| fs::copy(&kept, &to).map(drop))?;
            sync_folder(&folder)
        })();
        done.map_err(|source| PlaceError::Io { path: to, source })?;
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), PlaceError> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.is_empty() || path.ends_with('/') || !Path::new(path).components().all(plain) {
        return Err(PlaceError::Path { path: path.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fetch::tests::Shelf;
    use crate::node::testing::{Cluster, scratch};
    use muster_protocol::ids::Digest;
    use std::os::unix::fs::MetadataExt;

    const BINARY: &[u8] = b"k3s binary";
    const IMAGE: &[u8] = b"pause image";

    fn wanted() -> K3s {
        let mut k3s = Cluster::new().manifest(1).k3s;
        k3s.files.push(PlacedFile {
            path: "images/airgap.tar".into(),
            mode: 0o644,
            digest: Digest::of(IMAGE),
            bytes: IMAGE.len() as u64,
        });
        k3s
    }

    fn run(root: &Root, wanted: &K3s, shelf: &mut Shelf, may_replace: bool) -> Result<Placed, PlaceError> {
        let mut source = Fetcher { source: shelf, progress: &mut |_, _| {} };
        place(root, wanted, Some(&mut source), may_replace)
    }

    fn shelf() -> Shelf {
        Shelf::new(vec![BINARY.to_vec(), IMAGE.to_vec()])
    }

    #[test]
    fn files_are_placed_once_and_then_left_alone() {
        let (root, mut shelf) = (scratch(), shelf());
        assert_eq!(
            run(&root, &wanted(), &mut shelf, false).unwrap(),
            Placed { changed: true, current: true }
        );
        let binary = root.path("/var/lib/muster/k3s/current/k3s");
        assert_eq!(fs::read(&binary).unwrap(), BINARY);
        assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(root.path(IMAGES).join("airgap.tar")).unwrap(), IMAGE);
        let inode = fs::metadata(&binary).unwrap().ino();
        let asked = shelf.asked;
        assert_eq!(
            run(&root, &wanted(), &mut shelf, false).unwrap(),
            Placed { changed: false, current: true }
        );
        assert_eq!(place(&root, &wanted(), None, false).unwrap(), Placed { changed: false, current: true });
        assert_eq!(fs::metadata(&binary).unwrap().ino(), inode);
        assert_eq!(shelf.asked, asked);
    }

    #[test]
    fn one_damaged_file_is_fetched_again_and_the_others_are_kept() {
        let (root, mut shelf) = (scratch(), shelf());
        run(&root, &wanted(), &mut shelf, false).unwrap();
        let image = fs::metadata(root.path(IMAGES).join("airgap.tar")).unwrap().ino();
        fs::write(root.path("/var/lib/muster/k3s/current/k3s"), b"k3s bXnary").unwrap();
        let asked = shelf.asked;
        run(&root, &wanted(), &mut shelf, false).unwrap();
        assert_eq!(shelf.asked, asked + 1);
        assert_eq!(fs::read(root.path("/var/lib/muster/k3s/current/k3s")).unwrap(), BINARY);
        assert_eq!(fs::metadata(root.path(IMAGES).join("airgap.tar")).unwrap().ino(), image);
    }

    #[test]
    fn another_version_is_placed_beside_and_not_switched_to() {
        let (root, mut shelf) = (scratch(), shelf());
        run(&root, &wanted(), &mut shelf, false).unwrap();
        let newer = K3s { version: "v1.37.0+k3s1".into(), ..wanted() };
        assert_eq!(run(&root, &newer, &mut shelf, false).unwrap(), Placed { changed: true, current: false });
        assert_eq!(Version::current(&root.path(BASE)).as_deref(), Some("v1.36.3+k3s1"));
        assert!(run(&root, &newer, &mut shelf, true).unwrap().current);
    }

    #[test]
    fn without_a_provisioner_what_is_missing_is_said() {
        let root = scratch();
        let missing = place(&root, &wanted(), None, true);
        assert!(matches!(missing, Err(PlaceError::NoSource { .. })));
        assert!(!root.exists("/var/lib/muster/k3s/current"));
    }

    #[test]
    fn no_file_leaves_its_folder() {
        let (root, mut shelf) = (scratch(), shelf());
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/"] {
            let mut k3s = wanted();
            k3s.files[0].path = bad.into();
            assert!(matches!(run(&root, &k3s, &mut shelf, true), Err(PlaceError::Path { .. })), "{bad}");
        }
    }
}
