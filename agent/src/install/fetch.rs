//! Bytes by digest from the provisioner: `GET /artifact/<sha256>` with ranges, plain HTTP/1.1 (RFC 9110 §14).
//!
//! Nothing is believed here: whoever asked compares digests. But every length is known before a body is read, and a
//! peer that is slow, silent or lying costs one bounded wait.

use muster_protocol::ids::Digest;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Where artifacts come from.
pub trait Source: Send {
    /// Fills `into` with the artifact's bytes from `offset` on.
    fn part(&mut self, digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), FetchError>;

    /// The whole artifact, when it is not longer than `at_most`; its digest is compared.
    fn whole(&mut self, digest: &Digest, at_most: u64) -> Result<Vec<u8>, FetchError>;
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot reach the provisioner's HTTP port at {at}")]
    Connect {
        at: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("artifact {digest}: the connection failed")]
    Connection {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("artifact {digest}: the provisioner answered {status}")]
    Status { digest: Digest, status: u16 },
    #[error("artifact {digest}: the answer is not what was asked for: {why}")]
    Answer { digest: Digest, why: String },
    #[error("artifact {digest} is {have} bytes long, at most {at_most} were expected")]
    TooLong { digest: Digest, have: u64, at_most: u64 },
    #[error("artifact {digest} has another digest: {have}")]
    OtherBytes { digest: Digest, have: Digest },
}

/// Silence longer than this ends a connection; the artifact is then asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes a second: a peer that gives less is as good as silent, however often it gives one.
const SLOWEST: u64 = 16 << 10;
/// An answer's head may be this long.
const HEAD_BYTES: u64 = 8 << 10;
/// How often one request is made before its error is returned; whoever runs the install begins again later.
const TRIES: u32 = 3;

/// One connection, kept between requests.
pub struct Http {
    at: SocketAddr,
    connection: Option<BufReader<Limited>>,
}

/// A connection that reads until a moment and no longer.
struct Limited {
    stream: TcpStream,
    until: Instant,
}

impl Read for Limited {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is too slow"));
        }
        self.stream.read(into)
    }
}

impl Http {
    pub fn new(at: SocketAddr) -> Self {
        Self { at, connection: None }
    }

    fn ask(
        &mut self,
        digest: &Digest,
        range: Option<(u64, u64)>,
        body: &mut dyn Body,
    ) -> Result<(), FetchError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let kept = self.connection.is_some();
            match self.once(digest, range, body) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // Whatever went wrong, what is left on this connection is nobody's answer.
                    self.connection = None;
                    let again = match &error {
                        FetchError::Connect { .. } | FetchError::Connection { .. } => true,
                        FetchError::Status { status, .. } => *status >= 500,
                        FetchError::Answer { .. }
                        | FetchError::TooLong { .. }
                        | FetchError::OtherBytes { .. } => false,
                    };
                    // A kept connection may have been closed while it was idle: that is no try.
                    if kept && again {
                        tries -= 1;
                    }
                    if !again || tries >= TRIES {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn once(
        &mut self,
        digest: &Digest,
        range: Option<(u64, u64)>,
        body: &mut dyn Body,
    ) -> Result<(), FetchError> {
        let failed = |source| FetchError::Connection { digest: *digest, source };
        let wrong = |why: String| FetchError::Answer { digest: *digest, why };
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => empty.insert(connect(self.at)?),
        };
        let mut request = format!("GET /artifact/{digest} HTTP/1.1\r\nHost: {}\r\n", self.at);
        if let Some((first, last)) = range {
            request.push_str(&format!("Range: bytes={first}-{last}\r\n"));
        }
        request.push_str("\r\n");
        let limited = connection.get_mut();
        limited.until = Instant::now() + PATIENCE;
        limited.stream.write_all(request.as_bytes()).map_err(failed)?;

        let head = Head::read(connection).map_err(failed)?;
        match (range, head.status) {
            (Some(_), 206) | (None, 200) => (),
            (_, status) => return Err(FetchError::Status { digest: *digest, status }),
        }
        let length = head.length.ok_or_else(|| wrong("it has no Content-Length".into()))?;
        if let Some((first, last)) = range {
            let promised = format!("bytes {first}-{last}/");
            if !head.range.is_some_and(|range| range.starts_with(&promised)) || length != last - first + 1 {
                return Err(wrong(format!("it has {length} bytes of another range")));
            }
        }
        let into = body.room(length).map_err(|at_most| FetchError::TooLong {
            digest: *digest,
            have: length,
            at_most,
        })?;
        connection.get_mut().until = Instant::now() + PATIENCE + Duration::from_secs(length / SLOWEST);
        connection.read_exact(into).map_err(failed)?;
        if head.close {
            self.connection = None;
        }
        Ok(())
    }
}

impl Source for Http {
    fn part(&mut self, digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), FetchError> {
        if into.is_empty() {
            return Ok(());
        }
        let last = offset.saturating_add(into.len() as u64 - 1);
        self.ask(digest, Some((offset, last)), &mut Part(into))
    }

    fn whole(&mut self, digest: &Digest, at_most: u64) -> Result<Vec<u8>, FetchError> {
        let mut whole = Whole { at_most, bytes: Vec::new() };
        self.ask(digest, None, &mut whole)?;
        let have = Digest::of(&whole.bytes);
        if have != *digest {
            return Err(FetchError::OtherBytes { digest: *digest, have });
        }
        Ok(whole.bytes)
    }
}

fn connect(at: SocketAddr) -> Result<BufReader<Limited>, FetchError> {
    let open = || {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::with_capacity(64 << 10, Limited { stream, until: Instant::now() + PATIENCE }))
    };
    open().map_err(|source| FetchError::Connect { at, source })
}

/// Where a body goes: room for exactly its length, or the most that was expected.
trait Body {
    fn room(&mut self, length: u64) -> Result<&mut [u8], u64>;
}

struct Part<'a>(&'a mut [u8]);

impl Body for Part<'_> {
    fn room(&mut self, length: u64) -> Result<&mut [u8], u64> {
        if length == self.0.len() as u64 { Ok(self.0) } else { Err(self.0.len() as u64) }
    }
}

struct Whole {
    at_most: u64,
    bytes: Vec<u8>,
}

impl Body for Whole {
    fn room(&mut self, length: u64) -> Result<&mut [u8], u64> {
        let length = usize::try_from(length).ok().filter(|_| length <= self.at_most).ok_or(self.at_most)?;
        self.bytes = vec![0; length];
        Ok(&mut self.bytes)
    }
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<u64>,
    range: Option<String>,
    close: bool,
}

impl Head {
    fn read(connection: &mut impl BufRead) -> io::Result<Self> {
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let mut lines = connection.take(HEAD_BYTES);
        let mut line = || {
            let mut line = Vec::new();
            lines.read_until(b'\n', &mut line)?;
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
                }
                None if line.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                None => Err(bad("the head of the answer is cut short or too long")),
            }
        };
        let first = line()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| bad("the answer is not HTTP/1.1"))?;
        let mut head = Self { status, length: None, range: None, close: false };
        loop {
            let line = line()?;
            if line.is_empty() {
                return Ok(head);
            }
            let Some((name, value)) = line.split_once(':') else { return Err(bad("a header has no colon")) };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" if head.length.is_some() => return Err(bad("Content-Length comes twice")),
                "content-length" => {
                    head.length = Some(value.parse().map_err(|_| bad("Content-Length is not a number"))?);
                }
                "content-range" => head.range = Some(value.to_owned()),
                "transfer-encoding" => return Err(bad("the answer is chunked")),
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                _ => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Answers one connection after the other with these bytes, whatever is asked.
    fn server(answers: Vec<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = BufReader::new(stream.try_clone().unwrap()).lines();
                while asked.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                stream.write_all(&answer).unwrap();
            }
        });
        at
    }

    fn whole(answer: &str, at_most: u64) -> Result<Vec<u8>, FetchError> {
        let at = server(vec![answer.as_bytes().to_vec(); TRIES as usize]);
        Http::new(at).whole(&Digest::of(b"hello"), at_most)
    }

    #[test]
    fn a_whole_artifact_is_read_and_compared() {
        assert_eq!(whole("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 5).unwrap(), b"hello");
        let other = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo", 5);
        assert!(matches!(other, Err(FetchError::OtherBytes { .. })));
    }

    #[test]
    fn a_length_beyond_what_was_expected_is_refused_before_reading() {
        let huge = whole("HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", 5);
        assert!(matches!(huge, Err(FetchError::TooLong { have: 999_999_999_999, at_most: 5, .. })));
    }

    #[test]
    fn answers_that_are_not_http_or_have_no_length_are_refused() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "",
        ] {
            assert!(whole(answer, 5).is_err(), "{answer:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(9000));
        assert!(whole(&long, 5).is_err());
    }

    #[test]
    fn a_range_must_be_the_one_that_was_asked_for() {
        let part = |answer: &str| {
            let at = server(vec![answer.as_bytes().to_vec()]);
            let mut into = [0; 3];
            Http::new(at).part(&Digest::of(b"hello"), 1, &mut into).map(|()| into)
        };
        let right =
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-3/5\r\nContent-Length: 3\r\n\r\nell";
        assert_eq!(&part(right).unwrap(), b"ell");
        assert!(part(&right.replace("1-3", "2-4")).is_err());
        assert!(part("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_err());
    }

    #[test]
    fn a_connection_that_breaks_is_made_again() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        let at = server(vec![good[..good.len() - 2].to_vec(), b"HTTP/1.1 503 busy\r\n\r\n".to_vec(), good]);
        assert_eq!(Http::new(at).whole(&Digest::of(b"hello"), 5).unwrap(), b"hello");
    }

    #[test]
    fn a_peer_that_trickles_is_left_after_the_time_that_a_slow_one_needs() {
        let mut stream = TcpStream::connect(server(vec![b"more".to_vec()])).unwrap();
        stream.write_all(b"\r\n").unwrap();
        let mut slow = Limited { stream, until: Instant::now() + PATIENCE };
        let mut one = [0; 1];
        slow.read_exact(&mut one).unwrap();
        slow.until = Instant::now();
        assert_eq!(slow.read_exact(&mut one).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn nobody_there_is_said_so() {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Http::new(at).whole(&Digest::of(b""), 5).unwrap_err();
        assert!(matches!(error, FetchError::Connect { .. }));
    }
}
