//! The socket for short questions: receive, consider, wait, answer.

use crate::node::lan::Board;
use crate::node::lan::answer::{Asked, Ignored, Nonces, answer, consider, delay};
use crate::node::unix_ms;
use muster_identity::clock::is_synchronised;
use muster_protocol::ids::Cidr;
use muster_protocol::lan::{MAX_PACKET, PORT};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Answers that wait for their moment; more questions than this at once are not answered.
const MAX_WAITING: usize = 64;

pub fn listen(at: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((at, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers for ever.
pub async fn run(socket: UdpSocket, board: Arc<Board>) -> io::Error {
    let socket = Arc::new(socket);
    let mut nonces = Nonces::default();
    let mut waiting = JoinSet::new();
    let mut buffer = [0; MAX_PACKET + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error of an earlier answer comes back here (RFC 1122 §4.1.3.3): the next receive is fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        while waiting.try_join_next().is_some() {}
        if waiting.len() >= MAX_WAITING {
            continue;
        }
        let bytes = &buffer[..length];
        let question = match hear(&board, bytes, from, &mut nonces) {
            Ok(question) => question,
            Err(why) => {
                tracing::debug!(%from, %why, "ignoring a packet on 7481");
                continue;
            }
        };
        let Some(status) = board.status() else { continue };
        let mut luck = [0; 4];
        if getrandom::fill(&mut luck).is_err() {
            continue;
        }
        let wait = delay(question.fleet, u32::from_le_bytes(luck));
        let (board, socket) = (board.clone(), socket.clone());
        waiting.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(bytes) = answer(&status, question.nonce, &board.key, board.cluster(), length)
                && let Err(error) = socket.send_to(&bytes, from).await
            {
                tracing::debug!(%from, %error, "cannot answer");
            }
        });
    }
}

fn hear(
    board: &Board,
    bytes: &[u8],
    from: SocketAddr,
    nonces: &mut Nonces,
) -> Result<muster_protocol::lan::Question, Ignored> {
    let IpAddr::V4(from) = from.ip() else { return Err(Ignored::OffLink { from: Ipv4Addr::UNSPECIFIED }) };
    // Without a roster nobody is an operator.
    let roster = board.roster().ok_or(Ignored::NotAnOperator)?;
    let now_ms = judge(unix_ms(), board.trust.build_epoch, is_synchronised());
    let asked = Asked { bytes, from, on_link: is_on_link(from), now_ms };
    consider(asked, board.cluster(), &roster, nonces)
}

/// The time by which a question's age is judged. Where no NTP client keeps the clock it is no judge: after a power
/// failure, with the provisioner down and a dead battery, is when the question must be answered.
fn judge(now_ms: u64, build_epoch: u64, synchronised: bool) -> Option<u64> {
    (synchronised && now_ms / 1000 >= build_epoch).then_some(now_ms)
}

/// Whether an address belongs to one of our own networks.
fn is_on_link(from: Ipv4Addr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    let network = |interface: nix::ifaddrs::InterfaceAddress| {
        let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| Some(storage?.as_sockaddr_in()?.ip());
        Some(Cidr::of_mask(ip(interface.address)?, ip(interface.netmask)?))
    };
    interfaces.filter_map(network).any(|network| network.prefix > 0 && network.contains(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_keeps_does_not_judge() {
        assert_eq!(judge(2_000_000, 1000, true), Some(2_000_000));
        assert_eq!(judge(2_000_000, 1000, false), None);
        assert_eq!(judge(999_999, 1000, true), None);
    }

    #[test]
    fn loopback_is_on_link_and_the_world_is_not() {
        assert!(is_on_link(Ipv4Addr::new(127, 0, 0, 9)));
        assert!(!is_on_link(Ipv4Addr::new(203, 0, 113, 7)));
    }
}
