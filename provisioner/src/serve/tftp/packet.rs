//! TFTP packets: RFC 1350, options by RFC 2347.
//!
//! Reads what clients send and writes what a read-only server sends. Bounds first: a name of 255 bytes, eight
//! options; unknown options are left unread, as RFC 2347 wants.

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    Read(Request<'a>),
    Write,
    Data,
    Ack(u16),
    Oack,
    Error { code: u16, text: &'a [u8] },
}

/// A read request, with the options we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request<'a> {
    pub name: &'a [u8],
    pub mode: Mode,
    /// RFC 2348.
    pub blksize: Option<u16>,
    /// RFC 2349: the client wants to know the size.
    pub tsize: bool,
    /// RFC 7440.
    pub windowsize: Option<u16>,
}

/// How bytes are to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Octet,
    /// `netascii`, `mail` and everything else: not for boot files.
    Other,
}

/// Why bytes are not a TFTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} bytes are too short")]
    Short(usize),
    #[error("operation {0} is unknown")]
    Operation(u16),
    #[error("a text without its end")]
    Unended,
    #[error("the name has {0} bytes")]
    LongName(usize),
    #[error("more than {MOST_OPTIONS} options")]
    ManyOptions,
}

/// Error codes (RFC 1350 §5, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NotDefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
    UnknownTransfer = 5,
}

/// Reads one datagram.
pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let short = Malformed::Short(bytes.len());
    let (operation, rest) = take_u16(bytes).ok_or(short)?;
    match operation {
        1 => request(rest).map(Packet::Read),
        2 => Ok(Packet::Write),
        3 => Ok(Packet::Data),
        4 => take_u16(rest).map(|(number, _)| Packet::Ack(number)).ok_or(short),
        5 => {
            let (code, text) = take_u16(rest).ok_or(short)?;
            // Some ROMs leave out the NUL, some the text.
            Ok(Packet::Error { code, text: text.split(|byte| *byte == 0).next().unwrap_or_default() })
        }
        6 => Ok(Packet::Oack),
        other => Err(Malformed::Operation(other)),
    }
}

/// Writes an error.
pub fn error(fault: Fault, text: &str) -> Vec<u8> {
    let mut bytes = vec![0, 5, 0, fault as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// Writes an option acknowledgement.
pub fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = vec![0, 6];
    for (name, value) in options {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value.to_string().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The four bytes before a block's data.
pub fn data_header(block: u64) -> [u8; 4] {
    // Numbers roll over to 0 behind 65,535, as all clients that get that far expect.
    let [high, low] = number(block).to_be_bytes();
    [0, 3, high, low]
}

/// A block's number on the wire.
pub fn number(block: u64) -> u16 {
    u16::try_from(block & 0xffff).unwrap_or_default()
}

fn request(bytes: &[u8]) -> Result<Request<'_>, Malformed> {
    let (name, rest) = take_text(bytes)?;
    if name.len() > LONGEST_NAME {
        return Err(Malformed::LongName(name.len()));
    }
    let (mode, mut rest) = take_text(rest)?;
    let mode = if mode.eq_ignore_ascii_case(b"octet") { Mode::Octet } else { Mode::Other };
    let mut request = Request { name, mode, ..Request::default() };
    for count in 0.. {
        // Padding behind the last option was seen; an option without a value is not one.
        if rest.is_empty() || rest[0] == 0 {
            break;
        }
        if count == MOST_OPTIONS {
            return Err(Malformed::ManyOptions);
        }
        let (option, after) = take_text(rest)?;
        let (value, after) = take_text(after)?;
        rest = after;
        let value = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
        // The first of two counts. A value out of the RFC's range is as if the option was not there.
        if is(b"blksize") && request.blksize.is_none() {
            request.blksize = value().filter(|v| (8..=65464).contains(v)).and_then(|v| u16::try_from(v).ok());
        } else if is(b"windowsize") && request.windowsize.is_none() {
            request.windowsize = value().filter(|v| *v > 0).and_then(|v| u16::try_from(v).ok());
        } else if is(b"tsize") {
            request.tsize = value().is_some();
        }
    }
    Ok(request)
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(pair, rest)| (u16::from_be_bytes(*pair), rest))
}

fn take_text(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(Malformed::Unended)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

const LONGEST_NAME: usize = 255;
const MOST_OPTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rrq(texts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        for text in texts {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
        bytes
    }

    fn read<'a>(bytes: &'a [u8]) -> Request<'a> {
        match decode(bytes) {
            Ok(Packet::Read(request)) => request,
            other => panic!("not a read request: {other:?}"),
        }
    }

    #[test]
    fn edk2s_request_is_read() {
        let bytes = rrq(&[b"boot.efi", b"octet", b"tsize", b"0", b"blksize", b"1468", b"windowsize", b"4"]);
        let expected = Request {
            name: b"boot.efi",
            mode: Mode::Octet,
            blksize: Some(1468),
            tsize: true,
            windowsize: Some(4),
        };
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn case_does_not_matter_and_unknown_options_are_left_out() {
        let bytes = rrq(&[b"a", b"OCTET", b"BlkSize", b"512", b"multicast", b"", b"timeout", b"255"]);
        let request = read(&bytes);
        assert_eq!((request.mode, request.blksize, request.windowsize), (Mode::Octet, Some(512), None));
        assert_eq!(read(&rrq(&[b"a", b"netascii"])).mode, Mode::Other);
    }

    #[test]
    fn values_out_of_range_are_as_if_absent() {
        let blksize = |value: &[u8]| read(&rrq(&[b"a", b"octet", b"blksize", value])).blksize;
        for bad in [&b"7"[..], b"0", b"65465", b"99999999999999999999", b"-1", b"x", b"", b"\xff", b"1e3"] {
            assert_eq!(blksize(bad), None, "{bad:?}");
        }
        assert_eq!(blksize(b"65464"), Some(65464));
        let window = |value: &[u8]| read(&rrq(&[b"a", b"octet", b"windowsize", value])).windowsize;
        assert_eq!((window(b"0"), window(b"65535"), window(b"65536")), (None, Some(65535), None));
    }

    #[test]
    fn what_is_no_packet_is_refused_by_name() {
        assert_eq!(decode(b""), Err(Malformed::Short(0)));
        assert_eq!(decode(b"\0"), Err(Malformed::Short(1)));
        assert_eq!(decode(b"\0\x04\0"), Err(Malformed::Short(3)));
        assert_eq!(decode(b"\0\x05"), Err(Malformed::Short(2)));
        assert_eq!(decode(b"\0\x07ab"), Err(Malformed::Operation(7)));
        assert_eq!(decode(b"\0\0"), Err(Malformed::Operation(0)));
        assert_eq!(decode(b"\0\x01boot.efi"), Err(Malformed::Unended));
        assert_eq!(decode(b"\0\x01boot.efi\0octet"), Err(Malformed::Unended));
        assert_eq!(decode(b"\0\x01boot.efi\0octet\0blksize\x001468"), Err(Malformed::Unended));
        assert_eq!(decode(&rrq(&[&[b'a'; 256], b"octet"])), Err(Malformed::LongName(256)));
        let many: Vec<&[u8]> = [&b"a"[..], b"octet"].into_iter().chain([&b"x"[..]; 18]).collect();
        assert_eq!(decode(&rrq(&many)), Err(Malformed::ManyOptions));
        assert_eq!(read(&rrq(&many[..18])).name, b"a");
    }

    #[test]
    fn an_error_is_read_with_or_without_its_text() {
        assert_eq!(decode(b"\0\x05\0\x08"), Ok(Packet::Error { code: 8, text: b"" }));
        assert_eq!(decode(b"\0\x05\0\x08bye\0junk"), Ok(Packet::Error { code: 8, text: b"bye" }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(operation in 0..9u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut packet = vec![0, operation];
            packet.extend(&bytes);
            let _ = decode(&packet);
            let _ = decode(&bytes);
        }
    }
}
