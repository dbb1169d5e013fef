//! A TFTP client that does what the test says, by the RFCs.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use super::Host;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::Duration,
};

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Data { block: u16, bytes: Vec<u8> },
    Oack(Vec<(String, String)>),
    Error { code: u16, text: String },
}

/// A client's socket.
pub struct Client {
    pub socket: UdpSocket,
    pub server: Ipv4Addr,
}

impl Client {
    /// Must run on a host's thread; port 0 for any.
    pub fn new(server: Ipv4Addr, port: u16) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { socket, server }
    }

    /// Sends to port 69.
    pub fn ask(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, (self.server, 69)).unwrap();
    }

    pub fn say(&self, bytes: &[u8], to: SocketAddr) {
        self.socket.send_to(bytes, to).unwrap();
    }

    /// The next packet; `None` after the time-out.
    pub fn hear(&self) -> Option<(Said, SocketAddr)> {
        let mut buffer = vec![0; 70_000];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => Some((said(&buffer[..length]), from)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Fetches a file; calls `between` before each acknowledgement. What is lost is asked for again after a second.
    pub fn get(
        &self,
        name: &str,
        options: &[(&str, &str)],
        mut between: impl FnMut(&Self, SocketAddr),
    ) -> Vec<u8> {
        self.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let request = read_request(name.as_bytes(), options);
        self.ask(&request);
        let (mut block_size, mut window, mut in_window) = (512, 1, 0);
        let (mut file, mut expected, mut server, mut silences) = (Vec::new(), 1u64, None, 0);
        let number = |block: u64| u16::try_from(block & 0xffff).unwrap();
        loop {
            let Some((said, from)) = self.hear() else {
                silences += 1;
                assert!(silences < 30, "the server fell silent");
                match server {
                    None => self.ask(&request),
                    Some(server) => self.say(&ack(number(expected - 1)), server),
                }
                continue;
            };
            // Each request that was lost on the way back began a transfer of its own; the first heard of counts.
            if *server.get_or_insert(from) != from {
                continue;
            }
            match said {
                Said::Oack(granted) => {
                    for (name, value) in granted {
                        match name.as_str() {
                            "blksize" => block_size = value.parse().unwrap(),
                            "windowsize" => window = value.parse().unwrap(),
                            _ => {}
                        }
                    }
                    if expected == 1 {
                        self.say(&ack(0), from);
                    }
                }
                Said::Data { block, bytes } if block == number(expected) => {
                    expected += 1;
                    in_window += 1;
                    file.extend_from_slice(&bytes);
                    let last = bytes.len() < block_size;
                    if in_window == window || last {
                        in_window = 0;
                        between(self, from);
                        self.say(&ack(number(expected - 1)), from);
                    }
                    if last {
                        return file;
                    }
                }
                Said::Data { block, .. } => {
                    // A gap is told once; a block that comes again is acknowledged again.
                    let old = number(expected).wrapping_sub(block) < 1 << 15;
                    if old || std::mem::take(&mut in_window) > 0 {
                        in_window = 0;
                        self.say(&ack(number(expected - 1)), from);
                    }
                }
                Said::Error { code, text } => panic!("error {code}: {text}"),
            }
        }
    }
}

/// Fetches a file from a host's thread.
pub fn get(host: &Host, server: Ipv4Addr, name: &'static str, options: &'static [(&str, &str)]) -> Vec<u8> {
    host.run(move || Client::new(server, 0).get(name, options, |_, _| {})).join().unwrap()
}

pub fn read_request(name: &[u8], options: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(b"\0octet\0");
    for (name, value) in options {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

pub fn ack(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, 4, high, low]
}

fn said(bytes: &[u8]) -> Said {
    let number = u16::from_be_bytes([bytes[2], bytes[3]]);
    match bytes[1] {
        3 => Said::Data { block: number, bytes: bytes[4..].into() },
        5 => Said::Error {
            code: number,
            text: String::from_utf8_lossy(&bytes[4..]).trim_end_matches('\0').into(),
        },
        6 => {
            let texts: Vec<String> = bytes[2..]
                .split(|byte| *byte == 0)
                .map(|text| String::from_utf8_lossy(text).into())
                .collect();
            Said::Oack(texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
        other => panic!("operation {other}"),
    }
}
