//! A PXE client as firmware is one: broadcasts from 68, asks again on 4011.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use super::Host;
use muster_protocol::{
    dhcp::{MessageType, Op, Packet, code},
    ids::Mac,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

/// What a client's ROM is like.
#[derive(Debug, Clone)]
pub struct Rom {
    pub mac: Mac,
    pub class: &'static [u8],
    pub architecture: &'static [u8],
    pub guid: bool,
}

impl Rom {
    pub fn edk2(mac: Mac) -> Self {
        Self { mac, class: b"PXEClient:Arch:00007:UNDI:003016", architecture: &[0, 7], guid: true }
    }

    pub fn packet(&self, message: MessageType) -> Packet {
        let mut packet = Packet::new(Op::Request, 0x1234_5678, self.mac);
        packet.broadcast = true;
        packet
            .options
            .set_message(message)
            .set(code::MAX_SIZE, &[5, 192])
            .set(code::PARAMETERS, &[1, 2, 3, 6, 12, 15, 43, 60, 66, 67, 97])
            .set(code::NETWORK_INTERFACE, &[1, 3, 16])
            .set(code::VENDOR_CLASS, self.class)
            .set(code::ARCHITECTURE, self.architecture);
        if self.guid {
            packet.options.set(code::MACHINE_ID, &[0; 17]);
        }
        packet
    }
}

/// Sends `packets` to everybody and gives the replies that came to port 68 within `time`, each with its sender.
pub fn broadcast(host: &Host, packets: Vec<Vec<u8>>, time: Duration) -> Vec<(SocketAddr, Packet)> {
    host.run(move || {
        let socket = socket(68);
        for packet in packets {
            socket.send_to(&packet, (Ipv4Addr::BROADCAST, 67)).unwrap();
        }
        collect(&socket, time, usize::MAX)
    })
    .join()
    .unwrap()
}

/// Like `broadcast`, ended by the first reply from port 67 of `server`.
pub fn offer(host: &Host, packet: &Packet, server: Ipv4Addr) -> Option<Packet> {
    let bytes = packet.encode();
    host.run(move || {
        let socket = socket(68);
        socket.send_to(&bytes, (Ipv4Addr::BROADCAST, 67)).unwrap();
        let from = SocketAddr::from((server, 67));
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let found = collect(&socket, end - Instant::now(), 1).into_iter().find(|(peer, _)| *peer == from);
            if let Some((_, packet)) = found {
                return Some(packet);
            }
        }
        None
    })
    .join()
    .unwrap()
}

/// Asks `server` on 4011 from `port`, as a host that has its address.
pub fn ask_4011(host: &Host, packet: &Packet, server: Ipv4Addr, port: u16) -> Option<Packet> {
    let bytes = packet.encode();
    host.run(move || {
        let socket = socket(port);
        socket.send_to(&bytes, (server, 4011)).unwrap();
        collect(&socket, Duration::from_secs(3), 1).pop().map(|(peer, packet)| {
            assert_eq!(peer, SocketAddr::from((server, 4011)), "the answer comes from where it was asked");
            packet
        })
    })
    .join()
    .unwrap()
}

fn socket(port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind_device(Some(b"eth0")).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
    socket.into()
}

fn collect(socket: &UdpSocket, time: Duration, most: usize) -> Vec<(SocketAddr, Packet)> {
    let end = Instant::now() + time;
    let mut packets = Vec::new();
    let mut buffer = [0; 2000];
    while packets.len() < most {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                packets.extend(Packet::decode(&buffer[..length]).ok().map(|packet| (peer, packet)))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    packets
}
