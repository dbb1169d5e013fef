//! Reads a tar archive (POSIX ustar and pax, GNU long names) entry by entry. Only what a Kata archive holds: files,
//! folders and links; anything else ends it.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Longest name or pax record that is read.
const MAX_META: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("cannot read the archive")]
    Io(#[from] io::Error),
    #[error("the archive is not a tar archive, or damaged at entry {entry}")]
    Damaged { entry: u64 },
    #[error("`{path}` is of kind {kind:?}, which no Kata archive holds")]
    Kind { path: String, kind: char },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub mode: u32,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Its bytes follow and are read through [`Archive`].
    File {
        bytes: u64,
    },
    Folder,
    Symlink {
        target: String,
    },
    /// Another name of an earlier entry.
    Hardlink {
        target: String,
    },
}

/// After [`Archive::next_entry`] gave a file, reading gives its bytes and then ends.
pub struct Archive<R> {
    source: R,
    left: u64,
    padding: u64,
    count: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, count: 0 }
    }

    /// `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut long = Long::default();
        loop {
            let rest = self.left + self.padding;
            (self.left, self.padding) = (0, 0);
            let skipped = io::copy(&mut Read::by_ref(&mut self.source).take(rest), &mut io::sink())?;
            if skipped != rest {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let mut header = [0; BLOCK];
            self.source.read_exact(&mut header)?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            self.count += 1;
            let damaged = || TarError::Damaged { entry: self.count };
            let (size, mode) = checked(&header).ok_or_else(damaged)?;
            let kind = header[156];
            match kind {
                b'x' | b'L' | b'K' => {
                    let text = self.meta(size)?;
                    long.learn(kind, &text).ok_or(TarError::Damaged { entry: self.count })?;
                }
                b'g' => drop(self.meta(size)?),
                kind => return self.entry(&header, kind, mode, long.size.unwrap_or(size), long).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        mode: u32,
        size: u64,
        long: Long,
    ) -> Result<Entry, TarError> {
        let damaged = || TarError::Damaged { entry: self.count };
        let path = long.path.or_else(|| name(header)).ok_or_else(damaged)?;
        let link = || long.link.clone().or_else(|| field(&header[157..257])).ok_or_else(damaged);
        let what = match kind {
            b'0' | 0 | b'7' => {
                self.left = size;
                self.padding = padding(size);
                What::File { bytes: size }
            }
            b'5' => What::Folder,
            b'2' => What::Symlink { target: link()? },
            b'1' => What::Hardlink { target: link()? },
            other => return Err(TarError::Kind { path, kind: char::from(other) }),
        };
        Ok(Entry { path, mode, what })
    }

    fn meta(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_META {
            return Err(TarError::Damaged { entry: self.count });
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        self.source.read_exact(&mut text)?;
        self.padding = padding(size);
        Ok(text)
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.source.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// What headers before the entry's own said of it.
#[derive(Default)]
struct Long {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Long {
    fn learn(&mut self, kind: u8, text: &[u8]) -> Option<()> {
        match kind {
            b'L' => self.path = Some(field(text)?),
            b'K' => self.link = Some(field(text)?),
            _pax => {
                // Records of "<length> <key>=<value>\n", the length counting itself.
                let mut rest = text;
                while !rest.is_empty() {
                    let space = rest.iter().position(|byte| *byte == b' ')?;
                    let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
                    let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
                    let (key, value) = std::str::from_utf8(record).ok()?.split_once('=')?;
                    match key {
                        "path" => self.path = Some(value.into()),
                        "linkpath" => self.link = Some(value.into()),
                        "size" => self.size = Some(value.parse().ok()?),
                        _times_and_owners => {}
                    }
                    rest = rest.get(length..)?;
                }
            }
        }
        Some(())
    }
}

/// Size and mode, when the checksum is right.
fn checked(header: &[u8; BLOCK]) -> Option<(u64, u32)> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
        .sum();
    if number(&header[148..156])? != sum {
        return None;
    }
    Some((number(&header[124..136])?, u32::try_from(number(&header[100..108])?).ok()? & 0o7777))
}

/// Octal text, or GNU's base 256 with the top bit set.
fn number(bytes: &[u8]) -> Option<u64> {
    if bytes[0] & 0x80 != 0 {
        let (high, low) = bytes.split_at(bytes.len().saturating_sub(8));
        let clean = high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        return clean.then(|| low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn field(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok().filter(|text| !text.is_empty())
}

fn name(header: &[u8; BLOCK]) -> Option<String> {
    let name = field(&header[..100])?;
    // GNU's old format has other things where ustar has the prefix.
    match field(&header[345..500]).filter(|_| &header[257..263] == b"ustar\0") {
        Some(prefix) => Some(format!("{prefix}/{name}")),
        None => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::kata::testing::{header, tar};

    #[test]
    fn entries_come_in_order_with_their_bytes() {
        let archive = tar(&[("d/", '5', ""), ("d/a", '0', "hello"), ("d/l", '2', "a"), ("d/empty", '0', "")]);
        let mut archive = Archive::new(archive.as_slice());
        assert_eq!(archive.next_entry().unwrap().unwrap().what, What::Folder);
        let file = archive.next_entry().unwrap().unwrap();
        assert_eq!((file.path.as_str(), file.what), ("d/a", What::File { bytes: 5 }));
        let mut text = String::new();
        archive.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(archive.next_entry().unwrap().unwrap().what, What::Symlink { target: "a".into() });
        assert_eq!(archive.next_entry().unwrap().unwrap().what, What::File { bytes: 0 });
        assert_eq!(archive.next_entry().unwrap(), None);
    }

    #[test]
    fn pax_and_gnu_long_names_are_used() {
        let long = "x/".repeat(200) + "end";
        let record = |length: usize| format!("{length} path={long}\n");
        let record = record(record(100).len());
        let mut bytes = tar(&[("pax", 'x', &record), ("short", '0', "1")]);
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(tar(&[("@LongLink", 'L', &format!("{long}2\0")), ("short", '0', "2")]));
        let mut archive = Archive::new(bytes.as_slice());
        assert_eq!(archive.next_entry().unwrap().unwrap().path, long);
        assert_eq!(archive.next_entry().unwrap().unwrap().path, format!("{long}2"));
        assert_eq!(archive.next_entry().unwrap(), None);
    }

    #[test]
    fn damage_at_any_byte_is_an_error_or_another_archive_but_no_panic() {
        let good = tar(&[("d/a", '0', "hello"), ("d/l", '2', "a")]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let mut archive = Archive::new(bad.as_slice());
            while let Ok(Some(_)) = archive.next_entry() {}
            let mut short = Archive::new(&good[..at]);
            while let Ok(Some(_)) = short.next_entry() {}
        }
    }

    #[test]
    fn a_device_is_refused() {
        let device = header("dev", '3', 0, "");
        assert!(matches!(
            Archive::new(device.as_slice()).next_entry(),
            Err(TarError::Kind { kind: '3', .. })
        ));
    }
}
