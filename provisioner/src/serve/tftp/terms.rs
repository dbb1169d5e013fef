//! What client and server agree on before the first block (RFC 2347, 2348, 2349, 7440).

use super::packet::{Request, oack};

/// How a file will be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes in a block.
    pub block: u16,
    /// Blocks before an acknowledgement.
    pub window: u16,
    /// The option acknowledgement; without options the first block is the answer.
    pub oack: Option<Vec<u8>>,
}

/// The terms for a file of `size` bytes, towards a network that carries `largest` bytes in a block.
///
/// `timeout` (RFC 2349) is never acknowledged: the client keeps its own, and our timers follow the round trip.
pub fn agree(request: &Request, size: u64, largest: u16) -> Terms {
    let block = request.blksize.map(|wanted| wanted.min(largest));
    // tftp-hpa fails above 64, and 64 fill any link of a LAN.
    let window = request.windowsize.map(|wanted| wanted.min(MOST_WINDOW));
    let options: Vec<(&str, u64)> = [
        // curl 7.88 takes a size of 0 here for an error; of an empty file nobody needs to know it.
        (request.tsize && size > 0).then_some(("tsize", size)),
        block.map(|block| ("blksize", block.into())),
        window.map(|window| ("windowsize", window.into())),
    ]
    .into_iter()
    .flatten()
    .collect();
    Terms {
        block: block.unwrap_or(512),
        window: window.unwrap_or(1),
        oack: (!options.is_empty()).then(|| oack(&options)),
    }
}

/// Bytes in a block for an interface of this MTU: never more than Ethernet's 1500 on the wire, because a jumbo
/// interface may look at 1500-byte ROMs, and many of those cannot put fragments together.
pub fn largest_block(mtu: u32) -> u16 {
    // IPv4 20, UDP 8, TFTP 4. 576 is what every IPv4 host takes (RFC 791).
    u16::try_from(mtu.clamp(576, 1500) - 32).unwrap_or(512)
}

const MOST_WINDOW: u16 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(blksize: Option<u16>, windowsize: Option<u16>, tsize: bool) -> Terms {
        agree(&Request { blksize, windowsize, tsize, ..Request::default() }, 30_000_000, 1468)
    }

    #[test]
    fn without_options_it_is_rfc_1350() {
        assert_eq!(terms(None, None, false), Terms { block: 512, window: 1, oack: None });
    }

    #[test]
    fn only_what_was_asked_is_acknowledged() {
        assert_eq!(terms(None, None, true).oack, Some(b"\0\x06tsize\x0030000000\0".into()));
        let edk2 = terms(Some(1468), Some(4), true);
        let oack = b"\0\x06tsize\x0030000000\0blksize\x001468\0windowsize\x004\0";
        assert_eq!(edk2, Terms { block: 1468, window: 4, oack: Some(oack.into()) });
    }

    #[test]
    fn an_empty_file_is_not_announced() {
        let request = Request { tsize: true, blksize: Some(512), ..Request::default() };
        assert_eq!(agree(&request, 0, 1468).oack, Some(b"\0\x06blksize\x00512\0".into()));
    }

    #[test]
    fn wishes_are_cut_to_the_network() {
        for (wanted, block) in
            [(8, 8), (512, 512), (1024, 1024), (1428, 1428), (1468, 1468), (8192, 1468), (65464, 1468)]
        {
            for (asked, window) in [(1, 1), (4, 4), (16, 16), (64, 64), (65, 64), (65535, 64)] {
                let terms = terms(Some(wanted), Some(asked), false);
                assert_eq!((terms.block, terms.window), (block, window));
            }
        }
    }

    #[test]
    fn no_block_is_larger_than_the_wire() {
        assert_eq!(
            [68, 576, 1400, 1500, 9000, u32::MAX].map(largest_block),
            [544, 544, 1368, 1468, 1468, 1468]
        );
    }
}
