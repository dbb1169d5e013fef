//! LZ4's legacy frame (`lz4 -l`, what the kernel itself uses): a magic number, then blocks of at most 8 MiB, each with
//! its length before it. <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>

const MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Raw bytes of every block but the last; matches never reach into the block before.
const BLOCK: usize = 8 << 20;

/// Fills `raw` exactly; `None` where the frame is damaged or has another length.
pub(crate) fn unpack(frame: &[u8], raw: &mut [u8]) -> Option<()> {
    let mut rest = frame.strip_prefix(&MAGIC)?;
    for target in raw.chunks_mut(BLOCK) {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (block, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        unpack_block(block, target)?;
        rest = behind;
    }
    rest.is_empty().then_some(())
}

fn unpack_block(mut block: &[u8], raw: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let (token, rest) = block.split_first()?;
        block = rest;
        let literals = length(usize::from(token >> 4), &mut block)?;
        let (copied, rest) = block.split_at_checked(literals)?;
        raw.get_mut(at..at + literals)?.copy_from_slice(copied);
        at += literals;
        block = rest;
        if block.is_empty() {
            // The last sequence has no match.
            return (at == raw.len()).then_some(());
        }
        let (offset, rest) = block.split_first_chunk::<2>()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let matched = length(usize::from(token & 15), &mut block)? + 4;
        repeat(raw, at, offset, matched)?;
        at += matched;
    }
}

/// A length of 15 goes on in the next bytes, until one is not 255.
fn length(mut length: usize, block: &mut &[u8]) -> Option<usize> {
    if length == 15 {
        loop {
            let (more, rest) = block.split_first()?;
            *block = rest;
            length = length.checked_add(usize::from(*more))?;
            if *more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Copies `count` bytes from `offset` before `at`. The two ranges may overlap: then the bytes repeat.
fn repeat(raw: &mut [u8], at: usize, offset: usize, count: usize) -> Option<()> {
    let from = at.checked_sub(offset)?;
    let end = at.checked_add(count)?;
    if offset == 0 || end > raw.len() {
        return None;
    }
    let mut to = at;
    while to < end {
        // What lies between `from` and `to` doubles with each round.
        let step = (to - from).min(end - to);
        raw.copy_within(from..from + step, to);
        to += step;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        for block in blocks {
            frame.extend((block.len() as u32).to_le_bytes());
            frame.extend(*block);
        }
        frame
    }

    fn unpacked(frame: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut raw = vec![0; length];
        unpack(frame, &mut raw).map(|()| raw)
    }

    #[test]
    fn literals_and_an_overlapping_match() {
        // "ab", then 7 bytes from 2 before, then the literal "c"
        let block = [0x23, b'a', b'b', 2, 0, 0x10, b'c'];
        assert_eq!(
            unpacked(&framed(&[&block]), 10).unwrap(),
            b"ababababac"[..9].iter().copied().chain(*b"c").collect::<Vec<_>>()
        );
    }

    #[test]
    fn long_lengths_go_on_in_further_bytes() {
        let mut block = vec![0xf0, 255, 30];
        block.extend([7; 300]);
        assert_eq!(unpacked(&framed(&[&block]), 300).unwrap(), [7; 300]);
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let good = framed(&[&[0x23, b'a', b'b', 2, 0, 0x10, b'c']]);
        assert!(unpacked(&good, 10).is_some());
        assert!(unpacked(&good, 9).is_none() && unpacked(&good, 11).is_none(), "another length");
        for end in 0..good.len() {
            assert!(unpacked(&good[..end], 10).is_none(), "cut at {end}");
        }
        let far = framed(&[&[0x23, b'a', b'b', 3, 0, 0x10, b'c']]);
        assert!(unpacked(&far, 10).is_none(), "a match from before the beginning");
        let standing = framed(&[&[0x23, b'a', b'b', 0, 0, 0x10, b'c']]);
        assert!(unpacked(&standing, 10).is_none(), "a match from nowhere");
        for at in 0..good.len() {
            for value in [0, 1, 15, 0xf0, 255] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = unpacked(&bad, 10);
            }
        }
    }

    #[test]
    fn what_the_lz4_tool_packed_comes_out_again() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        // Longer than one block, with runs, text and noise.
        let mut noise = 1_u32;
        let raw: Vec<u8> = (0..9_500_000_u32)
            .map(|n| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if n % 7000 < 3000 {
                    (n / 9) as u8
                } else if n % 7000 < 5000 {
                    0
                } else {
                    (noise >> 24) as u8
                }
            })
            .collect();
        let mut tool = Command::new("lz4")
            .args(["-l", "-9", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the lz4 tool is installed by scripts/setup.sh");
        let mut input = tool.stdin.take().unwrap();
        let copy = raw.clone();
        let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
        let packed = tool.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        assert!(unpacked(&packed, raw.len()).unwrap() == raw);
    }
}
