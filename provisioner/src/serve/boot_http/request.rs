//! A request's head (RFC 9112), read as far as a server of files needs it.

use muster_protocol::ids::Digest;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// `None`: no such place.
    pub target: Option<Target>,
    pub range: Option<Range>,
    /// The digests the client has, or `*`.
    pub has: Has,
    /// `If-Range` names another version: the range does not count.
    pub range_of: Option<String>,
    /// The connection ends after the answer.
    pub close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Other,
}

/// A place we have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/boot/<name>.efi`
    Boot(String),
    /// `/artifact/<sha256>`
    Artifact(Digest),
}

/// One range of bytes as asked for; several are answered as if none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

/// `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Has {
    #[default]
    Unknown,
    Anything,
    OneOf(Vec<Digest>),
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// Not all of it.
    Partial,
    /// A request of so many bytes.
    Whole { request: Request, length: usize },
    /// Not HTTP/1.x.
    Bad,
    /// Too large.
    Large,
}

/// Reads a head from the start of `bytes`.
pub fn read(bytes: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > LARGEST => return Head::Large,
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= LARGEST => return Head::Large,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(httparse::Error::TooManyHeaders) => return Head::Large,
        Err(_) => return Head::Bad,
    };
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Head::Bad;
    };
    let mut request = Request {
        method: match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        },
        target: target(path),
        range: None,
        has: Has::Unknown,
        range_of: None,
        close: version == 0,
    };
    for header in parsed.headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // What is not text is as if it was not there.
        let Ok(value) = std::str::from_utf8(header.value) else { continue };
        if is("range") {
            request.range = range(value);
        } else if is("if-none-match") {
            request.has = has(value);
        } else if is("if-range") {
            request.range_of = Some(value.trim().into());
        } else if is("connection") {
            let says = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
            request.close = says("close") || (request.close && !says("keep-alive"));
        } else if is("transfer-encoding") || (is("content-length") && value.trim() != "0") {
            // A body would be read as the next request.
            request.close = true;
        }
    }
    Head::Whole { request, length }
}

fn target(path: &str) -> Option<Target> {
    // The absolute form (RFC 9112 §3.2.2): what is asked of us is ours, whatever it calls us.
    let path = match path.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/')?..],
        None => path,
    };
    if let Some(name) = path.strip_prefix("/boot/") {
        return name.ends_with(".efi").then(|| Target::Boot(name.into()));
    }
    path.strip_prefix("/artifact/")?.parse().ok().map(Target::Artifact)
}

fn range(value: &str) -> Option<Range> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    // `+5` is a number for Rust and none for HTTP.
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match (first.trim(), last.trim()) {
        ("", last) => number(last).map(Range::Last),
        (first, "") => number(first).map(|first| Range::From { first, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::From { first, last: Some(last) })
        }
    }
}

fn has(value: &str) -> Has {
    if value.trim() == "*" {
        return Has::Anything;
    }
    let tag = |part: &str| {
        let part = part.trim();
        // Weak comparison (RFC 9110 §8.8.3.2).
        part.strip_prefix("W/").unwrap_or(part).strip_prefix('"')?.strip_suffix('"')?.parse().ok()
    };
    Has::OneOf(value.split(',').filter_map(tag).collect())
}

/// More is answered with 431.
pub const LARGEST: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(head: &str) -> Request {
        match read(head.as_bytes()) {
            Head::Whole { request, length } => {
                assert_eq!(length, head.len());
                request
            }
            other => panic!("{other:?} for {head:?}"),
        }
    }

    fn get(path: &str) -> Option<Target> {
        whole(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).target
    }

    #[test]
    fn firmwares_request_is_read() {
        let request = whole(
            "HEAD /boot/boot-x86_64.efi HTTP/1.1\r\nHost: 10.77.0.1\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n",
        );
        assert_eq!(request.method, Method::Head);
        assert_eq!(request.target, Some(Target::Boot("boot-x86_64.efi".into())));
        assert!(!request.close);
    }

    #[test]
    fn only_two_places_exist() {
        let digest = "ab".repeat(32);
        assert_eq!(get(&format!("/artifact/{digest}")), Some(Target::Artifact(digest.parse().unwrap())));
        assert_eq!(get("http://10.77.0.1:80/boot/a.efi"), Some(Target::Boot("a.efi".into())));
        for path in [
            "/",
            "/boot/",
            "/boot/a",
            "//boot/a.efi",
            "/boot/a.efi?x",
            "/artifact/abcd",
            "/artifacts/x",
            "*",
            "http://x",
        ] {
            assert_eq!(get(path), None, "{path}");
        }
    }

    #[test]
    fn ranges_are_read_or_left_out() {
        let range = |text: &str| whole(&format!("GET / HTTP/1.1\r\nRange: {text}\r\n\r\n")).range;
        assert_eq!(range("bytes=0-99"), Some(Range::From { first: 0, last: Some(99) }));
        assert_eq!(range("bytes=7-"), Some(Range::From { first: 7, last: None }));
        assert_eq!(range("bytes=-5"), Some(Range::Last(5)));
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_connection_stays_open_by_version_and_word() {
        let close = |head: &str| whole(&format!("GET / HTTP/{head}\r\n\r\n")).close;
        assert!(!close("1.1") && close("1.0"));
        assert!(close("1.1\r\nConnection: x, Close") && !close("1.0\r\nConnection: keep-alive"));
        assert!(close("1.1\r\nContent-Length: 5") && !close("1.1\r\nContent-Length: 0"));
        assert!(close("1.1\r\nTransfer-Encoding: chunked"));
    }

    #[test]
    fn a_large_head_is_told_from_a_bad_one() {
        assert_eq!(read(b""), Head::Partial);
        assert_eq!(read(b"GET / HTTP/1.1\r\nHost"), Head::Partial);
        assert_eq!(read(b"\0\x01\x02"), Head::Bad);
        assert_eq!(read(b"GET / HTTP/2.0\r\n\r\n"), Head::Bad);
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(LARGEST));
        assert_eq!(read(long.as_bytes()), Head::Large);
        let ended = format!("{long}\r\n\r\n");
        assert_eq!(read(ended.as_bytes()), Head::Large);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(read(many.as_bytes()), Head::Large);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in "\\PC{0,80}") {
            read(&bytes);
            read(format!("GET /{tail} HTTP/1.1\r\nRange: {tail}\r\nIf-None-Match: {tail}\r\n\r\n").as_bytes());
            read(format!("GET http://{tail} HTTP/1.1\r\nRange: bytes={tail}\r\n\r\n").as_bytes());
        }
    }
}
