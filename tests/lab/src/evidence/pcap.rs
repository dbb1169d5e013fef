//! A classic pcap file, packet by packet (the layout is in pcap-savefile(5)). A record that is cut or lies about its
//! length ends the walk: what stands before it is still good.

const HEAD: usize = 24;
const RECORD: usize = 16;
/// LINKTYPE_ETHERNET
const ETHERNET: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// Host clock, milliseconds since 1970, as the capture saw it.
    pub(crate) at_ms: u64,
    /// May be shorter than it was on the wire.
    pub(crate) frame: &'a [u8],
}

#[derive(Debug, Clone)]
pub(crate) struct Packets<'a> {
    rest: &'a [u8],
    big_endian: bool,
    /// Fractions of a second that make a millisecond.
    per_ms: u32,
}

/// `None`: no pcap file of Ethernet frames.
pub(crate) fn packets(file: &[u8]) -> Option<Packets<'_>> {
    let (head, rest) = file.split_at_checked(HEAD)?;
    let (big_endian, per_ms) = match *head.first_chunk()? {
        [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1_000),
        [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1_000),
        [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1_000_000),
        [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1_000_000),
        _ => return None,
    };
    let packets = Packets { rest, big_endian, per_ms };
    (packets.number(head.get(20..)?)? & 0xffff == ETHERNET).then_some(packets)
}

impl Packets<'_> {
    fn number(&self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let (record, rest) = self.rest.split_at_checked(RECORD)?;
        let seconds = self.number(record)?;
        let fraction = self.number(&record[4..])?;
        let length = self.number(&record[8..])?;
        let (frame, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(Packet { at_ms: u64::from(seconds) * 1000 + u64::from(fraction / self.per_ms), frame })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut out =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1, 0, 0, 0];
        for (seconds, micros, frame) in frames {
            let length = (frame.len() as u32).to_le_bytes();
            for word in [seconds.to_le_bytes(), micros.to_le_bytes(), length, length] {
                out.extend(word);
            }
            out.extend(*frame);
        }
        out
    }

    #[test]
    fn packets_come_with_their_time_and_a_cut_one_ends_the_walk() {
        let whole = file(&[(7, 250_999, b"abc"), (8, 0, b"defg")]);
        let seen: Vec<_> = packets(&whole).unwrap().map(|packet| (packet.at_ms, packet.frame)).collect();
        assert_eq!(seen, [(7250, &b"abc"[..]), (8000, b"defg")]);
        assert_eq!(packets(&whole[..whole.len() - 1]).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, real: bool) {
            if real {
                bytes.splice(0..0, file(&[]));
            }
            let _ = packets(&bytes).map(Iterator::count);
        }
    }
}
