//! Where the provisioner is: it calls on 7480/udp every two seconds, and only a call signed under this cluster's root
//! key counts. A replayed call leads to an address whose TLS identity does not fit, so nothing is lost but a try.

use muster_protocol::beacon::{Call, PORT};
use muster_protocol::ids::InstanceId;
use muster_protocol::signed::{By, Listener, Refused, Trust};
use muster_protocol::wire::{self, Undecodable};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::UdpSocket;

/// A provisioner of this cluster, as it called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub api: SocketAddr,
    pub http: SocketAddr,
    pub instance: InstanceId,
    pub sequence: u64,
    pub delegation: u32,
}

/// Why a packet on 7480 is no call for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("cannot be read: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("a challenge or its proof: between provisioners")]
    NotABeacon,
    #[error("its beacon is not believed: {0}")]
    Refused(#[from] Refused),
    #[error("it did not come over IPv4")]
    NotIpv4,
}

/// Believes a packet or says why not. `delegation` is the newest one this machine has accepted.
pub fn hear(bytes: &[u8], from: SocketAddr, trust: &Trust, delegation: u32) -> Result<Found, Ignored> {
    let signed = match wire::decode::<Call>(bytes)? {
        Call::Beacon(signed) => signed,
        Call::Challenge { .. } | Call::Proof(_) => return Err(Ignored::NotABeacon),
    };
    let listener = Listener { delegation, ..Listener::default() };
    let beacon = signed.verify(By::Online(trust), &listener)?;
    let SocketAddr::V4(from) = from else { return Err(Ignored::NotIpv4) };
    let at = |port| SocketAddr::V4(SocketAddrV4::new(*from.ip(), port));
    let said = beacon.get();
    Ok(Found {
        api: at(said.api_port),
        http: at(said.http_port),
        instance: said.instance,
        sequence: said.sequence,
        delegation: beacon.delegation(),
    })
}

/// Listens for beacons on all ports of the machine.
pub struct Beacons {
    socket: UdpSocket,
}

impl Beacons {
    /// `at` is 0.0.0.0 but in tests. The address is shared, so that a node service may listen beside a test.
    pub fn listen(at: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((at, PORT)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    /// The next call that is believed.
    pub async fn next(&self, trust: &Trust, delegation: u32) -> io::Result<Found> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            match hear(buffer.get(..length).unwrap_or_default(), from, trust, delegation) {
                Ok(found) => return Ok(found),
                Err(why) => tracing::debug!(%from, %why, "ignoring a packet on 7480"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::beacon::Beacon;
    use muster_protocol::ids::ClusterId;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::{Delegation, OnlineKey, Signed};

    const CLUSTER: ClusterId = ClusterId([9; 16]);
    const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 7480);

    fn trust() -> Trust {
        let root = SecretKey::from_seed([1; 32]).public().verify;
        Trust { cluster: CLUSTER, cluster_name: "test".into(), root, build_epoch: 0 }
    }

    fn call(cluster: ClusterId, root: u8, number: u32) -> Vec<u8> {
        let secret = SecretKey::from_seed([2; 32]);
        let delegation = Delegation { number, online: secret.public().verify };
        let delegation = Signed::by_key(cluster, &SecretKey::from_seed([root; 32]), &delegation);
        let key = OnlineKey { secret, delegation, number };
        let beacon = Beacon { instance: InstanceId([3; 8]), sequence: 4, api_port: 7480, http_port: 80 };
        wire::encode(&Call::Beacon(Signed::by_online(cluster, &key, &beacon)))
    }

    #[test]
    fn a_signed_call_tells_where_the_provisioner_is() {
        let found = hear(&call(CLUSTER, 1, 5), FROM, &trust(), 5).unwrap();
        assert_eq!(
            (found.api.to_string(), found.http.to_string()),
            ("10.77.0.1:7480".into(), "10.77.0.1:80".into())
        );
        assert_eq!(found.delegation, 5);
    }

    #[test]
    fn another_clusters_call_is_ignored() {
        assert!(matches!(hear(&call(ClusterId([8; 16]), 1, 5), FROM, &trust(), 0), Err(Ignored::Refused(_))));
        assert!(matches!(hear(&call(CLUSTER, 7, 5), FROM, &trust(), 0), Err(Ignored::Refused(_))));
    }

    #[test]
    fn a_call_under_an_older_delegation_is_ignored() {
        let why = hear(&call(CLUSTER, 1, 5), FROM, &trust(), 6).unwrap_err();
        assert_eq!(why, Ignored::Refused(Refused::OldDelegation { have: 5, known: 6 }));
    }

    #[test]
    fn noise_is_ignored() {
        for bytes in [&b""[..], b"\x01", b"\xff\xff\xff", &[0; 1500]] {
            assert!(hear(bytes, FROM, &trust(), 0).is_err());
        }
    }
}
