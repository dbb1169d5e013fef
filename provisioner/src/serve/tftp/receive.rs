//! Port 69: who asks, and which of our addresses.

use crate::serve::link::udp;
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::Ipv4PacketInfo},
};
use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

pub(super) fn listen(interface: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from(udp(interface, 69)?);
    // Which of our addresses was asked: the answer has to come from it.
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    Ok(socket)
}

/// A datagram with its sender and the address of ours it was sent to; `None` for one to everybody (RFC 1123
/// §4.2.3.4: a broadcast request is ignored).
pub(super) fn receive_request(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> Result<Option<(usize, SocketAddrV4, Ipv4Addr)>, Errno> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let info = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(peer), Some(info)) = (received.address, info) else { return Ok(None) };
    let address = |raw: libc::in_addr| Ipv4Addr::from(u32::from_be(raw.s_addr));
    let local = address(info.ipi_spec_dst);
    // Nobody can be reached at port 0.
    if local != address(info.ipi_addr) || peer.port() == 0 {
        return Ok(None);
    }
    Ok(Some((received.bytes, SocketAddrV4::new(peer.ip(), peer.port()), local)))
}
