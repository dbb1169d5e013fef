//! Secrets as they could stand in somebody else's bytes (as they are, in hexadecimal, in base64 at each of its three
//! alignments), and all places where one does.
//!
//! The search is Wu and Manber's ("A fast algorithm for multi-pattern searching", 1994) with blocks of three bytes: most of
//! a disk is skipped fourteen bytes at a time.

use std::io::{self, Read};

/// Shorter ones would be found by chance, and the skips would be none.
const SHORTEST: usize = 16;
const BLOCK: usize = 3;
const CHUNK: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Needle {
    bytes: Vec<u8>,
    secret: usize,
    written: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Of its first byte, from where the reading began.
    pub(crate) at: u64,
    /// Which of the secrets, in the order in which they were given.
    pub(crate) secret: usize,
    pub(crate) written: &'static str,
}

#[derive(Debug)]
pub(crate) struct Needles {
    all: Vec<Needle>,
    /// How far the window may move when it ends in a block with this hash; 0: look closer.
    shift: Vec<u8>,
    /// Needles whose window ends in such a block.
    ending: Vec<Vec<u16>>,
    longest: usize,
}

impl Needles {
    /// Each secret may have several values. Too short values are refused, by the number of their secret.
    pub(crate) fn of(secrets: &[Vec<Vec<u8>>]) -> Result<Self, usize> {
        let mut all: Vec<Needle> = Vec::new();
        for (secret, values) in secrets.iter().enumerate() {
            for value in values {
                if value.len() < SHORTEST {
                    return Err(secret);
                }
                for (written, bytes) in writings(value) {
                    if all.iter().all(|known| known.bytes != bytes) {
                        all.push(Needle { bytes, secret, written });
                    }
                }
            }
        }
        let furthest = SHORTEST - BLOCK + 1;
        let mut shift = vec![furthest as u8; 1 << 16];
        let mut ending = vec![Vec::new(); 1 << 16];
        for (n, needle) in all.iter().enumerate() {
            for end in BLOCK..=SHORTEST {
                let hash = hash(&needle.bytes[end - BLOCK..end]);
                shift[hash] = shift[hash].min((SHORTEST - end) as u8);
                if end == SHORTEST {
                    ending[hash].push(n as u16);
                }
            }
        }
        let longest = all.iter().map(|needle| needle.bytes.len()).max().unwrap_or(SHORTEST);
        Ok(Self { all, shift, ending, longest })
    }

    /// Everything that `from` gives, however it gives it. Returns how much that was.
    pub(crate) fn search(&self, mut from: impl Read, found: &mut dyn FnMut(Hit)) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK + self.longest];
        // what is carried over from the last chunk, because a needle may begin in it
        let (mut kept, mut base) = (0, 0_u64);
        loop {
            let read = match from.read(&mut buffer[kept..]) {
                Ok(0) => return Ok(base + kept as u64),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let filled = kept + read;
            self.look(&buffer[..filled], &mut |start, needle: &Needle| {
                // one that ends in the carried part was found the last time
                if start + needle.bytes.len() > kept {
                    found(Hit { at: base + start as u64, secret: needle.secret, written: needle.written });
                }
            });
            let carry = filled.min(self.longest - 1);
            buffer.copy_within(filled - carry..filled, 0);
            base += (filled - carry) as u64;
            kept = carry;
        }
    }

    fn look(&self, hay: &[u8], found: &mut dyn FnMut(usize, &Needle)) {
        let mut end = SHORTEST;
        while end <= hay.len() {
            let hash = hash(&hay[end - BLOCK..end]);
            let shift = usize::from(self.shift[hash]);
            if shift > 0 {
                end += shift;
                continue;
            }
            let start = end - SHORTEST;
            for &n in &self.ending[hash] {
                let needle = &self.all[usize::from(n)];
                if hay[start..].starts_with(&needle.bytes) {
                    found(start, needle);
                }
            }
            end += 1;
        }
    }
}

fn hash(block: &[u8]) -> usize {
    let at = |n: usize| usize::from(block[n]);
    (at(0) ^ (at(1) << 4) ^ (at(2) << 8)) & 0xffff
}

fn writings(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let lower: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let upper = lower.to_ascii_uppercase();
    let mut out =
        vec![("as it is", value.to_vec()), ("hex", lower.into_bytes()), ("upper hex", upper.into_bytes())];
    for before in 0..3 {
        let standard = base64_within(value, before);
        let url = standard.iter().map(|&c| match c {
            b'+' => b'-',
            b'/' => b'_',
            other => other,
        });
        let url: Vec<u8> = url.collect();
        out.push(("base64", standard));
        out.push(("base64url", url));
    }
    out
}

/// The characters that `value` alone decides when it stands behind `before` other bytes (RFC 4648).
fn base64_within(value: &[u8], before: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let first_bit = before * 8;
    let bits = value.len() * 8;
    let bit = |at: usize| (value[at / 8] >> (7 - at % 8)) & 1;
    let first = first_bit.div_ceil(6);
    let last = (first_bit + bits) / 6;
    let letter = |n: usize| {
        let sextet = (0..6).fold(0, |sextet, k| sextet << 1 | bit(n * 6 + k - first_bit));
        ALPHABET[usize::from(sextet)]
    };
    (first..last).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Luck;

    fn secret() -> Vec<u8> {
        (0..32).map(|n: u8| n.wrapping_mul(37).wrapping_add(201)).collect()
    }

    fn hits(needles: &Needles, hay: impl Read) -> Vec<Hit> {
        let mut out = Vec::new();
        needles.search(hay, &mut |hit| out.push(hit)).unwrap();
        out
    }

    /// Gives a few bytes at a time, so that every needle lies across a border.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn each_writing_is_found_wherever_it_is_planted_and_once() {
        let needles = Needles::of(&[vec![secret()]]).unwrap();
        let mut luck = Luck::new(7);
        for (written, bytes) in writings(&secret()) {
            for at in [0_usize, 1, 15, 16, 999] {
                let mut hay: Vec<u8> = (0..1200).map(|_| luck.number() as u8).collect();
                hay[at..at + bytes.len()].copy_from_slice(&bytes);
                for step in [1, 7, 4096] {
                    let seen = hits(&needles, Drops(&hay, step));
                    let at = at as u64;
                    assert_eq!(seen.len(), 1, "{written} at {at} by {step}");
                    assert_eq!((seen[0].at, seen[0].secret), (at, 0));
                }
            }
        }
    }

    #[test]
    fn one_that_lies_across_two_chunks_is_found_once() {
        let needles = Needles::of(&[vec![secret()]]).unwrap();
        for at in CHUNK - 40..CHUNK + 60 {
            let mut hay = vec![0; CHUNK + 300];
            hay[at..at + 32].copy_from_slice(&secret());
            let seen: Vec<u64> = hits(&needles, &*hay).iter().map(|hit| hit.at).collect();
            assert_eq!(seen, [at as u64]);
        }
    }

    #[test]
    fn base64_of_a_longer_text_is_found_at_each_alignment() {
        // "{"a":"…}" and its like: what stands before the secret moves the alignment
        let needles = Needles::of(&[vec![secret()]]).unwrap();
        for before in 0..6 {
            let whole = [vec![b'x'; before], secret(), vec![b'y'; 5]].concat();
            let text = base64_within(&whole, 0);
            assert_eq!(hits(&needles, &*text).len(), 1, "{before} bytes before it");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        assert_eq!(base64_within(b"foobar", 0), b"Zm9vYmFy");
        assert_eq!(base64_within(b"foob", 0), b"Zm9vY");
    }

    #[test]
    fn a_changed_byte_is_no_hit_and_a_short_secret_is_refused() {
        let needles = Needles::of(&[vec![secret()]]).unwrap();
        let mut hay = secret();
        hay[31] ^= 1;
        assert!(hits(&needles, &*hay).is_empty());
        assert_eq!(Needles::of(&[vec![secret()], vec![b"password".to_vec()]]).unwrap_err(), 1);
    }

    #[test]
    fn several_secrets_are_told_apart() {
        let other: Vec<u8> = secret().into_iter().rev().collect();
        let needles = Needles::of(&[vec![secret()], vec![other.clone()]]).unwrap();
        let hay = [vec![9; 50], other, secret()].concat();
        let seen: Vec<(u64, usize)> = hits(&needles, &*hay).iter().map(|hit| (hit.at, hit.secret)).collect();
        assert_eq!(seen, [(50, 1), (82, 0)]);
    }
}
