//! The proxy's sockets: 67 and 4011 on one interface. Receives, asks `boot::answer`, sends.

use super::link::{LOOK, Link, look, udp};
use crate::boot::{
    answer::{Port, Reply, To, Verdict, answer, told},
    event::BootEvent,
    table::BootTable,
};
use muster_protocol::dhcp::Packet;
use nix::{
    libc::{in_addr, in_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};
use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::SystemTime,
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{mpsc::UnboundedSender, watch},
    time::interval,
};
use tracing::{debug, info, warn};

/// Both sockets, opened while the process may.
#[derive(Debug)]
pub struct Sockets {
    interface: String,
    link: Link,
    dhcp: UdpSocket,
    boot: UdpSocket,
}

/// Opens 67 and 4011 on `interface`; must run inside a tokio runtime.
pub fn open(interface: &str) -> io::Result<Sockets> {
    let link = look(interface).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("interface `{interface}` has no IPv4 address"))
    })?;
    Ok(Sockets {
        interface: interface.into(),
        link,
        dhcp: listen(interface, 67)?,
        boot: listen(interface, 4011)?,
    })
}

/// Answers for ever.
pub async fn run(
    mut sockets: Sockets,
    table: watch::Receiver<BootTable>,
    events: UnboundedSender<BootEvent>,
) -> io::Result<()> {
    let mut looks = interval(LOOK);
    // The largest datagram an interface with jumbo frames brings in one piece; DHCP is far below.
    let (mut on67, mut on4011) = ([0; LARGEST], [0; LARGEST]);
    loop {
        let (port, received) = tokio::select! {
            received = sockets.dhcp.recv_from(&mut on67) => (Port::Dhcp, received),
            received = sockets.boot.recv_from(&mut on4011) => (Port::Boot, received),
            _ = looks.tick() => {
                sockets = refresh(sockets);
                continue;
            }
        };
        match (received, port) {
            (Ok((length, peer)), Port::Dhcp) => {
                respond(&sockets, &on67[..length], peer, port, &table, &events).await
            }
            (Ok((length, peer)), Port::Boot) => {
                respond(&sockets, &on4011[..length], peer, port, &table, &events).await;
            }
            (Err(error), port) => {
                debug!(?port, %error, "receiving failed");
                // An interface that is down says so at once each time: look at it, and not in a circle.
                looks.tick().await;
                sockets = refresh(sockets);
            }
        }
    }
}

async fn respond(
    sockets: &Sockets,
    bytes: &[u8],
    peer: SocketAddr,
    port: Port,
    table: &watch::Receiver<BootTable>,
    events: &UnboundedSender<BootEvent>,
) {
    let packet = match Packet::decode(bytes) {
        Ok(packet) => packet,
        Err(why) => return debug!(%peer, %why, "not a DHCP packet"),
    };
    let verdict = answer(&packet, port, &table.borrow(), sockets.link.address);
    let told = told(&packet, port, &verdict);
    match verdict {
        Verdict::Reply(reply) => match send(sockets, &reply, peer, port).await {
            Ok(()) => info!(mac = %packet.mac, %peer, file = %reply.file, ?port, "boot answer sent"),
            Err(error) => warn!(mac = %packet.mac, %peer, %error, "boot answer not sent"),
        },
        Verdict::Ignore(why) => debug!(mac = %packet.mac, %peer, %why, "no boot answer"),
    }
    for what in told {
        // The receiver is gone when the provisioner is ending.
        let _ =
            events.send(BootEvent { at: SystemTime::now(), mac: Some(packet.mac), peer: peer.ip(), what });
    }
}

async fn send(sockets: &Sockets, reply: &Reply, peer: SocketAddr, port: Port) -> io::Result<()> {
    let socket = match port {
        Port::Dhcp => &sockets.dhcp,
        Port::Boot => &sockets.boot,
    };
    let to = match (reply.to, peer) {
        // A client without an address cannot be reached by its own.
        (To::Sender, SocketAddr::V4(peer)) if !peer.ip().is_unspecified() => peer,
        (To::Everybody | To::Sender, _) => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT),
    };
    let bytes = reply.packet.encode();
    let info = in_pktinfo {
        ipi_ifindex: i32::try_from(sockets.link.index).unwrap_or(0),
        // The answer comes from the very address that it names as server.
        ipi_spec_dst: in_addr { s_addr: u32::from(sockets.link.address).to_be() },
        ipi_addr: in_addr { s_addr: 0 },
    };
    socket
        .async_io(Interest::WRITABLE, || {
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            let (slice, to) = ([IoSlice::new(&bytes)], SockaddrIn::from(to));
            Ok(sendmsg(socket.as_raw_fd(), &slice, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?)
        })
        .await
        .map(drop)
}

/// Follows the interface: new sockets when it came back as another one, a new address when that changed.
fn refresh(mut sockets: Sockets) -> Sockets {
    let Some(link) = look(&sockets.interface) else { return sockets };
    if link.index != sockets.link.index {
        match (listen(&sockets.interface, 67), listen(&sockets.interface, 4011)) {
            (Ok(dhcp), Ok(boot)) => {
                info!(interface = sockets.interface, "interface came back: sockets opened again");
                (sockets.dhcp, sockets.boot, sockets.link) = (dhcp, boot, link);
            }
            (Err(error), _) | (_, Err(error)) => {
                warn!(interface = sockets.interface, %error, "cannot open the DHCP sockets again");
            }
        }
    } else if link != sockets.link {
        info!(interface = sockets.interface, address = %link.address, "interface changed");
        sockets.link = link;
    }
    sockets
}

fn listen(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = udp(interface, port)?;
    socket.set_broadcast(true)?;
    UdpSocket::from_std(socket.into())
}

/// Where DHCP clients listen.
const CLIENT: u16 = 68;
const LARGEST: usize = 9216;
