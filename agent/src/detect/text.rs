//! sysfs attributes as clean, bounded text: firmware strings end up on consoles, in logs and in other people's tools.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest attribute that is read; real ones are one line.
const MAX_READ: u64 = 4096;
/// Longest text that is kept, in bytes.
const MAX_TEXT: usize = 128;

/// One attribute, cleaned; `None` when it is missing, unreadable or blank.
pub(super) fn attribute(path: impl AsRef<Path>) -> Option<String> {
    Some(clean(&bytes(path)?)).filter(|text| !text.is_empty())
}

/// The raw bytes of one attribute, at most 4 KiB.
pub(super) fn bytes(path: impl AsRef<Path>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A whole number, decimal or with `0x`.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    let text = attribute(path)?;
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `1` is true; anything else, or nothing, is not.
pub(super) fn flag(path: impl AsRef<Path>) -> bool {
    number(path) == Some(1)
}

/// The name of what a symlink points to, such as the driver of a device.
pub(super) fn link_name(path: impl AsRef<Path>) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(clean(target.file_name()?.as_encoded_bytes())).filter(|text| !text.is_empty())
}

/// The entries of a folder, sorted by number where names end in one, at most `limit`.
pub(super) fn entries(folder: &Path, limit: usize) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| natural(&a.0).cmp(&natural(&b.0)));
    found.truncate(limit);
    found
}

/// So that eth10 comes after eth9.
fn natural(name: &str) -> (&str, usize, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name.len(), &name[stem.len()..])
}

/// Printable text only: no control bytes, no broken UTF-8, no runs of blanks, no more than [`MAX_TEXT`] bytes.
pub(super) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::new();
    for c in text.chars() {
        // Direction marks and other invisible formatting would let one string look like another.
        let hidden = matches!(u32::from(c), 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe0fff);
        if hidden || c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace()) {
            continue;
        }
        if c.is_whitespace() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else if out.len() + c.len_utf8() <= MAX_TEXT {
            out.push(c);
        } else {
            break;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_bytes_and_escapes_are_gone() {
        assert_eq!(clean(b"  ACME\x1b[31m \t Box\0\n"), "ACME[31m Box");
        assert_eq!(clean(b"\xff\xfe\x80"), "");
        assert_eq!(clean("a\u{202e}b".as_bytes()), "ab");
    }

    #[test]
    fn interfaces_sort_by_number() {
        let mut names = ["eth10", "eth9", "eno1", "eth0"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(names, ["eno1", "eth0", "eth9", "eth10"]);
    }

    proptest! {
        #[test]
        fn any_bytes_become_short_printable_text(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let text = clean(&bytes);
            prop_assert!(text.len() <= MAX_TEXT && !text.chars().any(char::is_control));
            prop_assert_eq!(clean(text.as_bytes()), text);
        }
    }
}
