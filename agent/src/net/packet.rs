//! UDP over a packet socket, for a port that has no address yet: a UDP socket would borrow another port's address
//! and could not hear a server that answers by unicast.
//!
//! RFC 791 and RFC 768 headers; only DHCP uses this.

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// RFC 2131 §4.1.
pub(super) const SERVER_PORT: u16 = 67;
/// RFC 2131 §4.1.
pub(super) const CLIENT_PORT: u16 = 68;
const UDP: u8 = 17;
const HEADERS: usize = 28;

/// A socket for DHCP on one interface.
pub(super) struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
    to: SockAddr,
}

impl PacketSocket {
    /// Needs CAP_NET_RAW and a running tokio.
    pub(super) fn open(interface: u32) -> io::Result<Self> {
        // Made with protocol 0, it hears nothing before it is bound to one interface.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket.attach_filter(&to_client_port())?;
        socket.bind(&address(interface))?;
        socket.set_nonblocking(true)?;
        // SAFETY: the descriptor is owned by the AsyncFd from here on, and nothing replaces or closes it before both
        // are dropped together. tokio has no safe way left to register a packet socket.
        let socket = unsafe { AsyncFd::register(OwnedFd::from(socket)) }?;
        Ok(Self { socket, to: address(interface) })
    }

    /// One broadcast datagram from the client's to the server's port.
    pub(super) async fn send(&self, from: Ipv4Addr, payload: &[u8]) -> io::Result<()> {
        let bytes = datagram(from, Ipv4Addr::BROADCAST, payload);
        let send = |fd: &OwnedFd| socket2::SockRef::from(fd).send_to(&bytes, &self.to);
        self.socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// The payload of the next datagram to the client's port.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut buffer = vec![0; 2048];
            let read = |fd: &OwnedFd| nix::unistd::read(fd, &mut buffer).map_err(io::Error::from);
            let length = self.socket.async_io(Interest::READABLE, read).await?;
            if let Some(payload) = buffer.get(..length).and_then(|bytes| payload(bytes, CLIENT_PORT)) {
                return Ok(payload.to_vec());
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Broadcast on one interface, IPv4.
fn address(interface: u32) -> SockAddr {
    let link = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be(),
        sll_ifindex: i32::try_from(interface).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: the storage is larger than and aligned for every socket address, it is written with a whole
    // sockaddr_ll, and the length says so. Neither socket2 nor nix can make this address without `unsafe`.
    let made = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
            Ok(())
        })
    };
    match made {
        Ok(((), address)) => address,
        Err(error) => unreachable!("the closure above has no error path: {error}"),
    }
}

/// Classic BPF: unfragmented UDP to the client's port. Without it, the whole image download would be copied here.
fn to_client_port() -> [SockFilter; 9] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const LOAD_HALF_X: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
    const HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let port = u32::from(CLIENT_PORT);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(JUMP_EQUAL, 0, 6, u32::from(UDP)),
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(JUMP_SET, 4, 0, 0x1fff),
        SockFilter::new(HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_HALF_X, 0, 0, 2),
        SockFilter::new(JUMP_EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Both headers and the payload, from the client's to the server's port.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(payload.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![0x45, 0x10, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0];
    bytes[2..4].copy_from_slice(&length(HEADERS));
    bytes.extend_from_slice(&from.octets());
    bytes.extend_from_slice(&to.octets());
    let sum = checksum(&[&bytes]).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);

    let mut udp = Vec::with_capacity(8 + payload.len());
    udp.extend_from_slice(&CLIENT_PORT.to_be_bytes());
    udp.extend_from_slice(&SERVER_PORT.to_be_bytes());
    udp.extend_from_slice(&length(8));
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(payload);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, UDP], &length(8)].concat();
    // Zero means "no checksum" (RFC 768), so a sum of zero is sent as its twin.
    let sum = match checksum(&[&pseudo, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(&udp);
    bytes
}

/// What a datagram to `port` carries. The UDP checksum is not looked at: on virtual links it is often left to
/// hardware that does not exist, and DHCP's transaction id is checked behind.
fn payload(bytes: &[u8], port: u16) -> Option<&[u8]> {
    let first = *bytes.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 || *bytes.get(9)? != UDP {
        return None;
    }
    let udp = bytes.get(header..)?;
    let half = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let length = usize::from(half(4)?);
    // The frame may be longer than the datagram: short ones are padded on the wire.
    (half(2)? == port).then(|| udp.get(8..length)).flatten()
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checksums_are_right() {
        let bytes = datagram(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"odd");
        assert_eq!(checksum(&[&bytes[..20]]), 0, "the sum over a right header is zero");
        let pseudo = [0, 0, 0, 0, 255, 255, 255, 255, 0, UDP, 0, 11];
        assert_eq!(checksum(&[&pseudo, &bytes[20..]]), 0);
    }

    #[test]
    fn only_udp_to_our_port_is_taken_and_padding_is_left() {
        let mut bytes = datagram(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, b"hello");
        bytes.extend_from_slice(&[0; 12]);
        assert_eq!(payload(&bytes, SERVER_PORT), Some(&b"hello"[..]));
        assert_eq!(payload(&bytes, CLIENT_PORT), None);
        bytes[9] = 6;
        assert_eq!(payload(&bytes, SERVER_PORT), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _any = payload(&bytes, CLIENT_PORT);
        }
    }
}
