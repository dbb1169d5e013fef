//! newc archives for the kernel's initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Everything belongs to root and has time 0, so the same content gives the same bytes. Not a general archiver:
//! no devices, no hard links, and the whole archive is in memory.

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    #[error("`{path}` is not a relative path without `.`, `..`, empty parts and NUL")]
    Path { path: String },
    #[error("`{path}` is in the archive already")]
    Twice { path: String },
    #[error("`{path}` has {bytes} bytes, an initramfs file has at most 4 GiB")]
    TooLarge { path: String, bytes: usize },
}

/// A growing archive. Missing parent folders are added, because the kernel makes none by itself.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn folder(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.parents(path)?;
        self.entry(path, S_IFDIR | mode, &[])
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), CpioError> {
        self.parents(path)?;
        self.entry(path, S_IFREG | mode, content)
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.parents(path)?;
        self.entry(path, S_IFLNK | 0o777, target.as_bytes())
    }

    /// The archive with its end mark, a multiple of four bytes, so that another may follow at once.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw(TRAILER, 0, 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) -> Result<(), CpioError> {
        let sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !path.split('/').all(sound) || path == TRAILER {
            return Err(CpioError::Path { path: path.to_owned() });
        }
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for end in ends {
            let parent = &path[..end];
            if !self.names.contains(parent) {
                self.entry(parent, S_IFDIR | 0o755, &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), CpioError> {
        if u32::try_from(content.len()).is_err() {
            return Err(CpioError::TooLarge { path: path.to_owned(), bytes: content.len() });
        }
        if !self.names.insert(path.to_owned()) {
            return Err(CpioError::Twice { path: path.to_owned() });
        }
        // Inodes only tell hard links apart; counting from 1 keeps them different within this archive.
        self.raw(path, self.names.len(), mode, content);
        Ok(())
    }

    fn raw(&mut self, path: &str, inode: usize, mode: u32, content: &[u8]) {
        let links = if mode & S_IFMT == S_IFDIR { 2 } else { 1 };
        let size = content.len();
        let name_size = path.len() + 1;
        // magic, inode, mode, uid, gid, links, mtime, size, four device numbers, name size, checksum
        let header = format!(
            "070701{inode:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{name_size:08X}{:08X}",
            0, 0, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        pad4(&mut self.bytes);
        self.bytes.extend_from_slice(content);
        pad4(&mut self.bytes);
    }
}

/// The kernel looks for the next archive at a multiple of four.
pub fn pad4(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

const TRAILER: &str = "TRAILER!!!";
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reader of our own for the tests: (path, mode, content) of each entry.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut position = 0;
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |at: usize| {
                let digits = std::str::from_utf8(&bytes[6 + at * 8..14 + at * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap().to_owned();
            let data = (110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(bytes.len(), data);
                return entries;
            }
            entries.push((name, mode as u32, bytes[data..data + size].to_vec()));
            position += (data + size).next_multiple_of(4);
            assert_eq!(position % 4, 0);
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn parents_come_before_their_children_and_once() {
        let mut archive = Archive::new();
        archive.file("etc/muster/trust", 0o644, b"trust").unwrap();
        archive.file("etc/muster/other", 0o600, b"").unwrap();
        archive.link("bin/sh", "dash").unwrap();
        let entries = read(&archive.finish());
        let seen: Vec<_> = entries.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(
            seen,
            [
                ("etc", 0o040_755),
                ("etc/muster", 0o040_755),
                ("etc/muster/trust", 0o100_644),
                ("etc/muster/other", 0o100_600),
                ("bin", 0o040_755),
                ("bin/sh", 0o120_777),
            ]
        );
        assert_eq!(entries[5].2, b"dash");
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        for path in ["", "/init", "a//b", "a/", "../init", "a/./b", "a\0b", "TRAILER!!!"] {
            let refused = Archive::new().file(path, 0o644, b"");
            assert_eq!(refused, Err(CpioError::Path { path: path.to_owned() }));
        }
    }

    #[test]
    fn the_same_path_twice_is_refused() {
        let mut archive = Archive::new();
        archive.file("init", 0o755, b"a").unwrap();
        assert_eq!(archive.file("init", 0o755, b"b"), Err(CpioError::Twice { path: "init".into() }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(files in proptest::collection::btree_map("[a-z]{1,9}", any::<Vec<u8>>(), 0..6)) {
            let mut archive = Archive::new();
            for (name, content) in &files {
                archive.file(name, 0o640, content).unwrap();
            }
            let bytes = archive.finish();
            prop_assert_eq!(bytes.len() % 4, 0);
            let expected: Vec<_> = files.into_iter().map(|(name, content)| (name, 0o100_640, content)).collect();
            prop_assert_eq!(read(&bytes), expected);
        }
    }
}
