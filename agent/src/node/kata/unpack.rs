//! From a verified `tar.zst` to a folder, with a list of what every file must be.

use crate::durable::make_folder;
use crate::node::kata::tar::{Archive, TarError, What};
use muster_protocol::ids::Digest;
use muster_protocol::wire::{self, Undecodable, Versioned};
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// The list's file in the folder itself, written last.
pub const CONTENTS: &str = ".muster-contents";
/// What the paths in the archive begin with.
const PREFIX: &str = "opt/kata";

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("`{path}` leads out of the folder")]
    Path { path: String },
    #[error("the archive holds nothing below {PREFIX}")]
    Empty,
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the list of files")]
    Contents(#[from] Undecodable),
}

/// What was unpacked, to be compared later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub archive: Digest,
    pub files: Vec<Unpacked>,
}

impl Versioned for Contents {
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub path: String,
    pub what: Kept,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    File { mode: u32, digest: Digest },
    Symlink { target: String },
}

impl Contents {
    pub fn read(folder: &Path) -> Option<Self> {
        wire::decode(&fs::read(folder.join(CONTENTS)).ok()?).ok()
    }

    /// Every file has the digest that was recorded when it was put in place.
    pub fn holds(&self, folder: &Path) -> bool {
        self.files.iter().all(|file| {
            let path = folder.join(&file.path);
            match &file.what {
                Kept::Symlink { target } => {
                    fs::read_link(&path).is_ok_and(|found| found == Path::new(target))
                }
                Kept::File { mode, digest } => {
                    let fits = path
                        .symlink_metadata()
                        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o7777 == *mode);
                    fits && crate::node::fetch::digest_of(&path).is_ok_and(|found| found == *digest)
                }
            }
        })
    }
}

/// Unpacks into `folder`, which must be empty, and writes the list last.
pub fn unpack(archive: Digest, zst: impl BufRead, folder: &Path) -> Result<(), UnpackError> {
    let mut tar = Archive::new(Frames::new(zst));
    let mut files = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let Some(path) = inside(&entry.path)? else { continue };
        let to = folder.join(&path);
        let io = |source| UnpackError::Write { path: to.clone(), source };
        if let Some(parent) = to.parent() {
            no_link_on_the_way(folder, parent, &entry.path)?;
            make_folder(parent).map_err(io)?;
        }
        let what = match entry.what {
            What::Folder => {
                no_link_on_the_way(folder, &to, &entry.path)?;
                make_folder(&to).map_err(io)?;
                continue;
            }
            What::Symlink { target } => {
                symlink(&target, &to).map_err(io)?;
                Kept::Symlink { target }
            }
            What::Hardlink { target } => {
                let target = inside(&target)?.ok_or(UnpackError::Path { path: target })?;
                fs::hard_link(folder.join(&target), &to).map_err(io)?;
                let first: Option<&Unpacked> = files.iter().find(|file: &&Unpacked| file.path == target);
                first.map(|file| file.what.clone()).ok_or(UnpackError::Path { path: target })?
            }
            What::File { .. } => {
                // setuid bits have no place here.
                let mode = entry.mode & 0o755;
                Kept::File { mode, digest: write_file(&mut tar, &to, mode).map_err(io)? }
            }
        };
        files.push(Unpacked { path, what });
    }
    if files.is_empty() {
        return Err(UnpackError::Empty);
    }
    let list = folder.join(CONTENTS);
    let write = |source| UnpackError::Write { path: list.clone(), source };
    let mut file = fs::File::create(&list).map_err(write)?;
    file.write_all(&wire::encode(&Contents { archive, files })).map_err(write)?;
    file.sync_all().map_err(write)
}

fn write_file(from: &mut impl Read, to: &Path, mode: u32) -> io::Result<Digest> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            n => {
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n])?;
            }
        }
    }
}

/// The path below `opt/kata`, `None` for that folder itself and those above it.
fn inside(path: &str) -> Result<Option<String>, UnpackError> {
    let bad = || UnpackError::Path { path: path.into() };
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(bad)?),
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    match parts.as_slice() {
        ["opt", "kata", rest @ ..] if !rest.is_empty() => Ok(Some(rest.join("/"))),
        [] | ["opt"] | ["opt", "kata"] => Ok(None),
        _elsewhere => Err(bad()),
    }
}

/// A link earlier in the archive must not carry a later file out of the folder.
fn no_link_on_the_way(folder: &Path, to: &Path, named: &str) -> Result<(), UnpackError> {
    let Ok(below) = to.strip_prefix(folder) else { return Err(UnpackError::Path { path: named.into() }) };
    let mut at = folder.to_path_buf();
    for part in below.components() {
        at.push(part);
        if at.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            return Err(UnpackError::Path { path: named.into() });
        }
    }
    Ok(())
}

/// zstd frames one after the other: `zstd` with threads, and concatenation, make several.
struct Frames<R: BufRead> {
    now: Now<R>,
}

enum Now<R: BufRead> {
    Between(R),
    Inside(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    Ended,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self { now: Now::Between(source) }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.now, Now::Ended) {
                Now::Ended => return Ok(0),
                Now::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let decoder = StreamingDecoder::new(source).map_err(io::Error::other)?;
                    self.now = Now::Inside(Box::new(decoder));
                }
                Now::Inside(mut decoder) => match decoder.read(buffer)? {
                    0 => self.now = Now::Between(decoder.into_inner()),
                    n => {
                        self.now = Now::Inside(decoder);
                        return Ok(n);
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::kata::testing::{tar, zst};
    use crate::node::testing::scratch;

    fn run(entries: &[(&str, char, &str)], folder: &Path) -> Result<(), UnpackError> {
        make_folder(folder).unwrap();
        unpack(Digest([0; 32]), zst(&tar(entries)).as_slice(), folder)
    }

    #[test]
    fn files_and_links_come_out_with_a_list_that_holds() {
        let root = scratch();
        let folder = root.path("/k");
        let entries = [
            ("./opt/kata/", '5', ""),
            ("./opt/kata/bin/shim", '0', "binary"),
            ("opt/kata/bin/kata", '2', "shim"),
            ("opt/kata/bin/again", '1', "opt/kata/bin/shim"),
        ];
        run(&entries, &folder).unwrap();
        let contents = Contents::read(&folder).unwrap();
        assert_eq!(contents.files.len(), 3);
        assert!(contents.holds(&folder));
        assert_eq!(fs::read(folder.join("bin/kata")).unwrap(), b"binary");
        fs::write(folder.join("bin/shim"), "bXnary").unwrap();
        assert!(!contents.holds(&folder));
    }

    #[test]
    fn several_frames_are_one_archive() {
        let root = scratch();
        let bytes = tar(&[("opt/kata/a", '0', "one"), ("opt/kata/b", '0', "two")]);
        let (first, second) = bytes.split_at(700);
        let joined = [zst(first), zst(second)].concat();
        make_folder(&root.path("/k")).unwrap();
        unpack(Digest([0; 32]), joined.as_slice(), &root.path("/k")).unwrap();
        assert_eq!(fs::read(root.path("/k/b")).unwrap(), b"two");
    }

    #[test]
    fn nothing_leaves_the_folder() {
        let outside = scratch();
        let target = outside.path("/x").display().to_string();
        for entries in [
            vec![("opt/kata/../../x", '0', "1")],
            vec![("/opt/kata/x", '0', "1")],
            vec![("etc/passwd", '0', "1")],
            vec![("opt/kata/l", '2', outside.as_path().to_str().unwrap()), ("opt/kata/l/x", '0', "1")],
            vec![("opt/kata/l", '2', "/tmp"), ("opt/kata/l/", '5', "")],
            vec![("opt/kata/l", '2', &*target), ("opt/kata/l", '0', "1")],
            vec![("opt/kata/h", '1', "../../etc/passwd")],
            vec![("opt/kata/h", '1', "opt/kata/missing")],
        ] {
            let root = scratch();
            assert!(run(&entries, &root.path("/k")).is_err(), "{entries:?}");
            assert_eq!(fs::read_dir(outside.as_path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_archive_cut_anywhere_has_no_list() {
        let bytes = zst(&tar(&[("opt/kata/a", '0', &"x".repeat(3000)), ("opt/kata/b", '0', "y")]));
        for at in 0..bytes.len() {
            let root = scratch();
            make_folder(&root.path("/k")).unwrap();
            assert!(unpack(Digest([0; 32]), &bytes[..at], &root.path("/k")).is_err(), "{at}");
            assert_eq!(Contents::read(&root.path("/k")), None);
        }
    }

    #[test]
    fn an_archive_of_something_else_is_refused() {
        let root = scratch();
        assert!(matches!(run(&[("opt/kata", '5', "")], &root.path("/k")), Err(UnpackError::Empty)));
    }
}
