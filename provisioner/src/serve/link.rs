//! The provisioning interface as it is now. Cables are pulled and USB adapters come back with another index: who holds
//! a socket on an interface looks again every two seconds.

use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

/// An interface that can carry IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub address: Ipv4Addr,
    pub mtu: u32,
}

/// How often to look.
pub const LOOK: Duration = Duration::from_secs(2);

/// What `interface` is now; `None` while it is not there or has no IPv4 address.
pub fn look(interface: &str) -> Option<Link> {
    let index = if_nametoindex(interface).ok()?;
    let address = getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            entry.address.and_then(|address| address.as_sockaddr_in().map(|address| address.ip()))
        })
        // The first that others can reach: an interface without DHCP may also have a link-local one.
        .min_by_key(Ipv4Addr::is_link_local)?;
    Some(Link { index, address, mtu: mtu(interface).unwrap_or(1500) })
}

/// A UDP socket that hears and speaks on one interface only: what arrives elsewhere is not ours to answer.
pub fn udp(interface: &str, port: u16) -> io::Result<Socket> {
    udp_at(interface, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
}

/// The same, at one of its addresses.
pub fn udp_at(interface: &str, address: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn mtu(interface: &str) -> Option<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None).ok()?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let name = interface.bytes().take(request.ifr_name.len() - 1);
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFMTU reads the name and writes `ifru_mtu` of the ifreq it is given, which outlives the call; no
    // safe wrapper exists, and /sys shows the interfaces of the namespace it was mounted in, not of this thread's.
    let mtu = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) != 0 {
            return None;
        }
        request.ifr_ifru.ifru_mtu
    };
    u32::try_from(mtu).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_seen_with_its_address_and_mtu() {
        let link = look("lo").unwrap();
        assert_eq!((link.address, link.mtu), (Ipv4Addr::LOCALHOST, mtu("lo").unwrap()));
        assert!(link.mtu >= 1500);
        assert_eq!(look("no-such-link"), None);
    }
}
