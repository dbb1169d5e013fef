//! The words of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md): numbers and fixed-size heads only.
//!
//! Only fixed newstyle negotiation with simple replies is spoken; QEMU, `qemu-io` and libnbd all accept that.

pub(crate) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

// Handshake flags, the same bits in both directions.
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
pub(crate) const NO_ZEROES: u16 = 2;

// Transmission flags: what a real disk with a volatile cache offers. No CAN_MULTI_CONN: one head, one cache.
const HAS_FLAGS: u16 = 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(crate) const EXPORT_FLAGS: u16 = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const REP_ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const REP_ERR_UNKNOWN: u32 = 0x8000_0006;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

pub(crate) const CMD_FLAG_FUA: u16 = 1;

pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;

/// The largest payload that a client may send or ask for, told in `INFO_BLOCK_SIZE`.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;
/// An option's data is a name and a few numbers; anything near this is nonsense.
pub(crate) const MAX_OPTION: u32 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
    Unknown(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: Command,
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Request {
    pub(crate) const SIZE: usize = 28;

    /// `None` when the magic is wrong: the stream is out of step and cannot be saved.
    pub(crate) fn parse(head: &[u8; Self::SIZE]) -> Option<Self> {
        (be32(head, 0) == REQUEST).then(|| Self {
            flags: be16(head, 4),
            command: match be16(head, 6) {
                0 => Command::Read,
                1 => Command::Write,
                2 => Command::Disconnect,
                3 => Command::Flush,
                4 => Command::Trim,
                6 => Command::WriteZeroes,
                other => Command::Unknown(other),
            },
            handle: be64(head, 8),
            offset: be64(head, 16),
            length: be32(head, 24),
        })
    }

    pub(crate) fn fua(&self) -> bool {
        self.flags & CMD_FLAG_FUA != 0
    }
}

/// Head of an answer; the data of a read follows it.
pub(crate) fn simple_reply(handle: u64, error: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&handle.to_be_bytes());
    out
}

pub(crate) fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + data.len());
    out.extend(OPTION_REPLY.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

pub(crate) fn info_export(size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    out.extend(INFO_EXPORT.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend(EXPORT_FLAGS.to_be_bytes());
    out
}

/// Minimum, preferred and largest request; the minimum is the sector at which a power cut tears.
pub(crate) fn info_block_size() -> Vec<u8> {
    let mut out = Vec::with_capacity(14);
    out.extend(INFO_BLOCK_SIZE.to_be_bytes());
    out.extend(512_u32.to_be_bytes());
    out.extend(4096_u32.to_be_bytes());
    out.extend(MAX_PAYLOAD.to_be_bytes());
    out
}

/// The name in the data of GO and INFO: a length, then the name, then the list of wanted information.
pub(crate) fn name_of_go(data: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(data.get(..4)?.try_into().ok()?) as usize;
    data.get(4..)?.get(..length)
}

fn be16(data: &[u8; Request::SIZE], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

fn be32(data: &[u8; Request::SIZE], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn be64(data: &[u8; Request::SIZE], at: usize) -> u64 {
    (u64::from(be32(data, at)) << 32) | u64::from(be32(data, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_field_by_field() {
        let mut head = [0; Request::SIZE];
        head[..4].copy_from_slice(&REQUEST.to_be_bytes());
        head[5] = 1;
        head[7] = 1;
        head[15] = 9;
        head[22] = 2;
        head[26] = 16;
        let request = Request::parse(&head).unwrap();
        assert_eq!(request.command, Command::Write);
        assert!(request.fua());
        assert_eq!((request.handle, request.offset, request.length), (9, 512, 4096));
    }

    #[test]
    fn a_stream_out_of_step_is_noticed() {
        assert_eq!(Request::parse(&[0; Request::SIZE]), None);
    }

    #[test]
    fn a_name_longer_than_the_option_is_no_name() {
        assert_eq!(name_of_go(&[0, 0, 0, 9, b'd']), None);
        assert_eq!(name_of_go(&[0, 0, 0, 1, b'd', 0, 0]), Some(&b"d"[..]));
        assert_eq!(name_of_go(&[0]), None);
    }
}
