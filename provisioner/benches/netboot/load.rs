//! Clients: they keep nothing of what they get but its length.

use super::support::Host;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

/// What clients do.
pub(super) enum Load {
    Tftp { window: u16, clients: u32, limit: Duration },
    Http { clients: u32, limit: Duration },
}

/// What one client got.
struct Got {
    bytes: usize,
    /// The window, where the server agreed to less than was asked for.
    narrowed: Option<u16>,
}

/// What a load came to.
pub(super) struct Came {
    pub(super) rounds: usize,
    pub(super) narrowed: Option<u16>,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const BLOCK: usize = 1468;
/// One round may be over too soon to be counted in hundredths of a second.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

impl Load {
    /// How long one round may take.
    pub(super) fn limit(&self) -> Duration {
        match self {
            Self::Tftp { limit, .. } | Self::Http { limit, .. } => *limit,
        }
    }

    /// Runs rounds of all clients until two seconds are over; the time, and what came. `None`: not all of the bytes came
    /// within the limit.
    pub(super) fn run(&self, host: &Host, bytes: usize) -> (Duration, Option<Came>) {
        let began = Instant::now();
        let mut came = Came { rounds: 0, narrowed: None };
        while began.elapsed() < LONG_ENOUGH {
            let (Self::Tftp { clients, .. } | Self::Http { clients, .. }) = self;
            let (clients, deadline) = (*clients, Instant::now() + self.limit());
            let running: Vec<_> = (0..clients)
                .map(|_| match self {
                    Self::Tftp { window, .. } => {
                        let window = *window;
                        host.run(move || tftp(window, deadline))
                    }
                    Self::Http { .. } => host.run(move || http(deadline)),
                })
                .collect();
            let got: Option<Vec<Got>> = running.into_iter().map(|client| client.join().unwrap()).collect();
            let got = got.unwrap_or_default();
            if got.iter().map(|got| got.bytes).sum::<usize>() != bytes {
                return (began.elapsed(), None);
            }
            came.rounds += 1;
            came.narrowed = got.iter().find_map(|got| got.narrowed);
        }
        (began.elapsed(), Some(came))
    }
}

/// Fetches the file once; what is lost is asked for again after a second.
fn tftp(window: u16, deadline: Instant) -> Option<Got> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut request = b"\0\x01file.efi\0octet\0blksize\x001468\0".to_vec();
    if window > 1 {
        request.extend_from_slice(format!("windowsize\0{window}\0").as_bytes());
    }
    socket.send_to(&request, (SERVER, 69)).unwrap();
    let (mut server, mut block, mut granted) = (None::<SocketAddr>, 512, 1);
    let (mut expected, mut in_window, mut length) = (1u16, 0u16, 0);
    let mut buffer = [0; 2048];
    let acknowledge = |expected: u16, to: SocketAddr| {
        let [high, low] = expected.wrapping_sub(1).to_be_bytes();
        socket.send_to(&[0, 4, high, low], to).unwrap();
    };
    while Instant::now() < deadline {
        let Ok((size, from)) = socket.recv_from(&mut buffer) else {
            match server {
                None => drop(socket.send_to(&request, (SERVER, 69))),
                Some(server) => acknowledge(expected, server),
            }
            continue;
        };
        if *server.get_or_insert(from) != from {
            continue;
        }
        let number = u16::from_be_bytes([buffer[2], buffer[3]]);
        match buffer[1] {
            6 => {
                let text = String::from_utf8_lossy(&buffer[2..size]).to_lowercase();
                let words: Vec<&str> = text.split('\0').collect();
                for pair in words.chunks_exact(2) {
                    match pair[0] {
                        "blksize" => block = pair[1].parse().unwrap(),
                        "windowsize" => granted = pair[1].parse().unwrap(),
                        _ => {}
                    }
                }
                assert!(
                    block == BLOCK && granted <= window,
                    "the peer agrees to {block} bytes, {granted} blocks"
                );
                acknowledge(1, from);
            }
            3 if number == expected => {
                expected = expected.wrapping_add(1);
                in_window += 1;
                length += size - 4;
                let last = size - 4 < block;
                if in_window == granted || last {
                    in_window = 0;
                    acknowledge(expected, from);
                }
                if last {
                    return Some(Got { bytes: length, narrowed: (granted < window).then_some(granted) });
                }
            }
            3 => {
                let old = expected.wrapping_sub(number) < 1 << 15;
                if old || std::mem::take(&mut in_window) > 0 {
                    in_window = 0;
                    acknowledge(expected, from);
                }
            }
            _ => panic!("{}", String::from_utf8_lossy(&buffer[4..size])),
        }
    }
    None
}

fn http(deadline: Instant) -> Option<Got> {
    let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
    stream.write_all(b"GET /boot/file.efi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    let mut length = 0;
    while Instant::now() < deadline {
        match stream.read(&mut buffer).ok()? {
            0 => return Some(Got { bytes: length, narrowed: None }),
            more => length += more,
        }
    }
    None
}
