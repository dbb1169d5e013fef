//! A file by its digest from the provisioner's port 80: resumed where it broke, believed only when the digest fits.
//!
//! Plain HTTP/1.1 over one blocking socket, on a thread of its own: nothing here is secret and everything is checked.

use muster_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest head of an answer.
const MAX_HEAD: usize = 16 << 10;
/// No byte for this long ends a transfer; the next try resumes it.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot connect to {from}")]
    Connect { from: SocketAddr, source: io::Error },
    #[error("the transfer from {from} broke after {have} of {want} bytes")]
    Broke { from: SocketAddr, have: u64, want: u64, source: io::Error },
    #[error("{from} has no artifact {digest} (HTTP {status})\nhint: muster image list")]
    Absent { from: SocketAddr, digest: Digest, status: u16 },
    #[error("{from} does not speak HTTP")]
    NotHttp { from: SocketAddr },
    #[error("{from} sent {have} bytes instead of {want}")]
    Length { from: SocketAddr, have: u64, want: u64 },
    #[error("the fetched bytes have digest {have}, wanted was {want}; they were thrown away")]
    Digest { have: Digest, want: Digest },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Where artifacts come from, and who is told how far it is.
pub struct Source<'a> {
    pub from: SocketAddr,
    /// Bytes of the present file, done and total.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

impl Source<'_> {
    /// Leaves a file with exactly this digest at `path`, or an error and at most a part to resume.
    pub fn fetch(&mut self, digest: Digest, bytes: u64, path: &Path) -> Result<(), FetchError> {
        let write = |source| FetchError::Write { path: path.into(), source };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(write)?;
        let mut hasher = Sha256::new();
        let mut have = hash(Read::by_ref(&mut file).take(bytes + 1), &mut hasher).map_err(write)?;
        if have > bytes {
            (hasher, have) = start_over(&mut file).map_err(write)?;
        }
        if have < bytes {
            self.rest(digest, bytes, &mut file, &mut hasher, have, path)?;
        }
        let found = Digest(hasher.finalize().into());
        if found != digest {
            file.set_len(0).map_err(write)?;
            return Err(FetchError::Digest { have: found, want: digest });
        }
        file.sync_all().map_err(write)
    }

    fn rest(
        &mut self,
        digest: Digest,
        bytes: u64,
        file: &mut File,
        hasher: &mut Sha256,
        mut have: u64,
        path: &Path,
    ) -> Result<(), FetchError> {
        let from = self.from;
        let write = |source| FetchError::Write { path: path.into(), source };
        let stream = TcpStream::connect_timeout(&from, Duration::from_secs(5));
        let mut stream = stream.map_err(|source| FetchError::Connect { from, source })?;
        let broke = |have, source| FetchError::Broke { from, have, want: bytes, source };
        stream.set_read_timeout(Some(SILENCE)).map_err(|source| broke(have, source))?;
        stream.set_write_timeout(Some(SILENCE)).map_err(|source| broke(have, source))?;
        let ask = format!(
            "GET /artifact/{digest} HTTP/1.1\r\nHost: {from}\r\nRange: bytes={have}-\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).map_err(|source| broke(have, source))?;

        let (status, length, mut early) = read_head(&mut stream, from, have, bytes)?;
        match status {
            206 => {}
            // The range was not honoured: the whole file follows.
            200 => (*hasher, have) = start_over(file).map_err(write)?,
            status => return Err(FetchError::Absent { from, digest, status }),
        }
        if let Some(length) = length
            && have + length != bytes
        {
            return Err(FetchError::Length { from, have: have + length, want: bytes });
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            let part = if early.is_empty() {
                let n = stream.read(&mut buffer).map_err(|source| broke(have, source))?;
                &buffer[..n]
            } else {
                &early
            };
            if part.is_empty() {
                break;
            }
            if have + part.len() as u64 > bytes {
                return Err(FetchError::Length { from, have: have + part.len() as u64, want: bytes });
            }
            file.write_all(part).map_err(write)?;
            hasher.update(part);
            have += part.len() as u64;
            early.clear();
            (self.progress)(have, bytes);
            if have == bytes {
                return Ok(());
            }
        }
        Err(broke(have, io::ErrorKind::UnexpectedEof.into()))
    }
}

fn start_over(file: &mut File) -> io::Result<(Sha256, u64)> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    Ok((Sha256::new(), 0))
}

/// Status, `Content-Length`, and what came of the body already.
fn read_head(
    stream: &mut TcpStream,
    from: SocketAddr,
    have: u64,
    want: u64,
) -> Result<(u16, Option<u64>, Vec<u8>), FetchError> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(end)) => {
                let length =
                    response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
                let length =
                    length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok());
                let status = response.code.ok_or(FetchError::NotHttp { from })?;
                return Ok((status, length, head[end..].to_vec()));
            }
            Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(FetchError::NotHttp { from }),
        }
        let n = stream.read(&mut buffer).map_err(|source| FetchError::Broke { from, have, want, source })?;
        if n == 0 {
            return Err(FetchError::NotHttp { from });
        }
        head.extend_from_slice(&buffer[..n]);
    }
}

/// SHA-256 of a file, read in pieces.
pub fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    hash(File::open(path)?, &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

fn hash(mut from: impl Read, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::node::testing::scratch;
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;

    /// Serves artifacts on loopback; `cut` ends each answer after so many bytes, `ranges` honours `Range`.
    pub(crate) struct Artifacts {
        pub(crate) at: SocketAddr,
        pub(crate) asked: Arc<Mutex<Vec<String>>>,
        _thread: JoinHandle<()>,
    }

    pub(crate) fn serve(files: Vec<Vec<u8>>, cut: Option<usize>, ranges: bool) -> Artifacts {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = String::new();
                let mut byte = [0];
                while !head.ends_with("\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(char::from(byte[0]));
                }
                log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
                let file = files.iter().find(|file| head.contains(&Digest::of(file).to_string()));
                let Some(file) = file else {
                    let _gone = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                    continue;
                };
                let start = head.split("bytes=").nth(1).and_then(|r| r.split('-').next()?.parse().ok());
                let start: usize = start.filter(|_| ranges).unwrap_or(0);
                let rest = &file[start..];
                let code = if ranges { "206 Partial Content" } else { "200 OK" };
                let _gone = stream.write_all(
                    format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n", rest.len()).as_bytes(),
                );
                let _gone = stream.write_all(&rest[..cut.unwrap_or(rest.len()).min(rest.len())]);
            }
        });
        Artifacts { at, asked, _thread: thread }
    }

    #[test]
    fn a_broken_transfer_is_resumed_until_the_digest_fits() {
        let root = scratch();
        let file: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let server = serve(vec![file.clone()], Some(150_000), true);
        let path = root.path("/x");
        let mut calls = 0;
        loop {
            calls += 1;
            let mut source = Source { from: server.at, progress: &mut |_, _| {} };
            match source.fetch(Digest::of(&file), file.len() as u64, &path) {
                Ok(()) => break,
                Err(FetchError::Broke { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(calls, 3);
        assert_eq!(std::fs::read(&path).unwrap(), file);
    }

    #[test]
    fn without_ranges_the_file_is_fetched_whole_over_the_part() {
        let root = scratch();
        let file = vec![7; 5000];
        let server = serve(vec![file.clone()], None, false);
        std::fs::write(root.path("/x"), b"some other part").unwrap();
        let mut source = Source { from: server.at, progress: &mut |_, _| {} };
        source.fetch(Digest::of(&file), 5000, &root.path("/x")).unwrap();
        assert_eq!(std::fs::read(root.path("/x")).unwrap(), file);
    }

    #[test]
    fn a_complete_file_is_not_fetched_again() {
        let root = scratch();
        let server = serve(vec![], None, true);
        std::fs::write(root.path("/x"), b"whole").unwrap();
        let mut source = Source { from: server.at, progress: &mut |_, _| {} };
        source.fetch(Digest::of(b"whole"), 5, &root.path("/x")).unwrap();
        assert!(server.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn wrong_bytes_are_thrown_away_and_an_absent_file_is_named() {
        let root = scratch();
        let server = serve(vec![b"right".to_vec()], None, true);
        std::fs::write(root.path("/x"), b"WR").unwrap();
        let mut source = Source { from: server.at, progress: &mut |_, _| {} };
        let fetched = source.fetch(Digest::of(b"right"), 5, &root.path("/x"));
        assert!(matches!(fetched, Err(FetchError::Digest { .. })));
        assert_eq!(std::fs::metadata(root.path("/x")).unwrap().len(), 0);
        source.fetch(Digest::of(b"right"), 5, &root.path("/x")).unwrap();
        let absent = source.fetch(Digest::of(b"other"), 5, &root.path("/y"));
        assert!(matches!(absent, Err(FetchError::Absent { status: 404, .. })));
        let longer = source.fetch(Digest::of(b"right"), 4, &root.path("/z"));
        assert!(matches!(longer, Err(FetchError::Length { .. })), "{longer:?}");
    }
}
