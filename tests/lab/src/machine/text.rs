//! A serial line as a person would have read it: escape sequences and control bytes gone, one line per line.
//!
//! EDK2 and systemd-boot paint with cursor positions instead of line feeds, so a new position ends a line too.

#[derive(Debug, Default)]
pub(crate) struct Text {
    line: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    Escape,
    /// Inside `ESC [ …`.
    Sequence,
    /// Inside `ESC ] …`, which ends with BEL or ESC.
    Command,
}

/// A console that never ends its line is cut here.
const LONGEST: usize = 4096;

impl Text {
    /// Takes bytes and gives the lines that are finished now.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match (self.state, byte) {
                (State::Plain, 0x1b) => self.state = State::Escape,
                (State::Plain, b'\n' | b'\r') => lines.extend(self.end()),
                (State::Plain, b'\t') => self.line.push(b' '),
                (State::Plain, 0..0x20 | 0x7f) => {}
                (State::Plain, _) => self.line.push(byte),
                (State::Escape, b'[') => self.state = State::Sequence,
                (State::Escape, b']') => self.state = State::Command,
                // ESC ( B and its like have one more byte; it is harmless as text
                (State::Escape, _) => self.state = State::Plain,
                (State::Sequence, 0x40..=0x7e) => {
                    self.state = State::Plain;
                    if matches!(byte, b'H' | b'f' | b'J') {
                        lines.extend(self.end());
                    }
                }
                (State::Sequence, _) => {}
                (State::Command, 0x07) => self.state = State::Plain,
                (State::Command, 0x1b) => self.state = State::Escape,
                (State::Command, _) => {}
            }
            if self.line.len() >= LONGEST {
                lines.extend(self.end());
            }
        }
        lines
    }

    /// What stands on the unfinished line.
    pub(crate) fn open(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    fn end(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_gone_and_a_new_position_ends_the_line() {
        let mut text = Text::default();
        let lines = text.feed(b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\x1b[0m Boot0001\r\n\x1b[05;10HLinux Boot Manager\x1b[06;10Hnext");
        assert_eq!(lines, ["BdsDxe: loading Boot0001", "Linux Boot Manager"]);
        assert_eq!(text.open(), "next");
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        let mut text = Text::default();
        let lines: Vec<String> =
            b"\x1b[1mone\x1b[0m\ntwo\n".iter().flat_map(|byte| text.feed(&[*byte])).collect();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut text = Text::default();
        assert_eq!(text.feed(&[b'x'; LONGEST + 5])[0].len(), LONGEST);
        assert_eq!(text.open().len(), 5);
    }
}
