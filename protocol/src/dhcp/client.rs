//! What our own DHCP client says (RFC 2131 §4.4, table 5) and what it reads from the answers.
//!
//! Only the packets: when to send them, and to whom, is the client's state machine. The class identifier is our own
//! and never `PXEClient`, so that no boot server answers an agent.

use super::{MessageType, Op, Packet, code};
use crate::ids::Mac;
use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;

/// Who asks: the same in each packet of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker<'a> {
    pub mac: Mac,
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    pub hostname: Option<&'a str>,
}

/// What a server gave or offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// Length of the network's prefix; 24 where the server sent no or no contiguous mask.
    pub prefix: u8,
    pub server: Ipv4Addr,
    pub routers: Vec<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
    pub hostname: Option<String>,
    pub lease_secs: u32,
    /// T1: from here the client asks its server again (RFC 2131 §4.4.5).
    pub renew_secs: u32,
    /// T2: from here it asks any server.
    pub rebind_secs: u32,
}

/// What an answer to our client means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

/// Asks all servers for an offer.
pub fn discover(asker: &Asker) -> Packet {
    message(asker, MessageType::Discover, true)
}

/// Takes one offer, telling the other servers at the same time.
pub fn request(asker: &Asker, offer: &Lease) -> Packet {
    let mut packet = message(asker, MessageType::Request, true);
    packet
        .options
        .set_address(code::REQUESTED_ADDRESS, offer.address)
        .set_address(code::SERVER_ID, offer.server);
    packet
}

/// Asks for an address that was held before a restart (INIT-REBOOT): no server named.
pub fn reclaim(asker: &Asker, address: Ipv4Addr) -> Packet {
    let mut packet = message(asker, MessageType::Request, true);
    packet.options.set_address(code::REQUESTED_ADDRESS, address);
    packet
}

/// Prolongs a lease: unicast to its server to renew, broadcast to rebind; the packet is the same, and the address is
/// in use, so the answer may come by unicast.
pub fn renew(asker: &Asker, held: Ipv4Addr) -> Packet {
    let mut packet = message(asker, MessageType::Request, false);
    packet.ciaddr = held;
    packet
}

/// Gives a lease back.
pub fn release(asker: &Asker, lease: &Lease) -> Packet {
    let mut packet = message(asker, MessageType::Release, false);
    packet.ciaddr = lease.address;
    packet.options.set_address(code::SERVER_ID, lease.server);
    packet.options.take(code::PARAMETERS);
    packet
}

/// What `packet` means to `asker`; `None` if it is not an answer to it, or one without a usable address.
pub fn answer(asker: &Asker, packet: &Packet) -> Option<Answer> {
    if packet.op != Op::Reply || packet.xid != asker.xid || packet.mac != asker.mac {
        return None;
    }
    match packet.options.message()? {
        MessageType::Offer => lease(packet).map(Answer::Offer),
        MessageType::Ack => lease(packet).map(Answer::Ack),
        MessageType::Nak => Some(Answer::Nak),
        MessageType::Discover
        | MessageType::Request
        | MessageType::Decline
        | MessageType::Release
        | MessageType::Inform => None,
    }
}

fn message(asker: &Asker, message: MessageType, broadcast: bool) -> Packet {
    let mut packet = Packet::new(Op::Request, asker.xid, asker.mac);
    packet.secs = asker.secs;
    packet.broadcast = broadcast;
    let [a, b, c, d, e, f] = asker.mac.0;
    packet
        .options
        .set_message(message)
        // Hardware type and address, as firmware on the same port sends it: both get the same lease.
        .set(code::CLIENT_ID, &[1, a, b, c, d, e, f])
        .set(code::VENDOR_CLASS, CLASS)
        .set(code::MAX_SIZE, &1472u16.to_be_bytes())
        .set(code::PARAMETERS, WANTED);
    if let Some(hostname) = asker.hostname {
        packet.options.set(code::HOST_NAME, hostname.as_bytes());
    }
    packet
}

fn lease(packet: &Packet) -> Option<Lease> {
    let options = &packet.options;
    let address = packet.yiaddr;
    // A proxy's offer has no address: it is meant for firmware, not for us.
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback() {
        return None;
    }
    // RFC 2131 table 3 asks for a server identifier; some embedded servers only fill `siaddr`.
    let server = options
        .address(code::SERVER_ID)
        .or_else(|| (!packet.siaddr.is_unspecified()).then_some(packet.siaddr))?;
    let lease_secs =
        options.seconds(code::LEASE_TIME).unwrap_or(FALLBACK_LEASE_SECS).max(SHORTEST_LEASE_SECS);
    let within = |code, share: u32| {
        options.seconds(code).filter(|secs| (1..lease_secs).contains(secs)).unwrap_or(lease_secs / 8 * share)
    };
    let rebind_secs = within(code::REBINDING_TIME, 7);
    Some(Lease {
        address,
        prefix: options.address(code::SUBNET_MASK).and_then(prefix_of).unwrap_or(24),
        server,
        routers: options.addresses(code::ROUTER),
        dns: options.addresses(code::DNS),
        ntp: options.addresses(code::NTP),
        hostname: options.text(code::HOST_NAME).map(Into::into),
        lease_secs,
        renew_secs: within(code::RENEWAL_TIME, 4).min(rebind_secs),
        rebind_secs,
    })
}

/// The prefix length of a contiguous mask; 0 and a mask with holes are not usable.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let mask = u32::from(mask);
    let prefix = mask.leading_ones();
    (prefix > 0 && prefix + mask.trailing_zeros().min(32) >= 32).then_some(u8::try_from(prefix).unwrap_or(32))
}

/// Option 60 of an agent.
pub const CLASS: &[u8] = b"muster-agent";
/// Option 55 of an agent. No static routes (121): a stranger's DHCP server must not steer us.
const WANTED: &[u8] = &[
    code::SUBNET_MASK,
    code::ROUTER,
    code::DNS,
    code::HOST_NAME,
    code::NTP,
    code::LEASE_TIME,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
];
/// RFC 2131 wants option 51 in each offer; without it one hour is a cautious guess.
const FALLBACK_LEASE_SECS: u32 = 3600;
/// Below a minute a client would do nothing but renew.
const SHORTEST_LEASE_SECS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Asker =
        Asker { mac: Mac([0x52, 0x54, 0, 0, 0, 0x11]), xid: 0x1234, secs: 3, hostname: Some("mini-pc-1") };

    fn offer() -> Packet {
        let mut packet = Packet::new(Op::Reply, ASKER.xid, ASKER.mac);
        packet.yiaddr = Ipv4Addr::new(10, 77, 0, 100);
        packet
            .options
            .set_message(MessageType::Offer)
            .set_address(code::SERVER_ID, Ipv4Addr::new(10, 77, 0, 2))
            .set_address(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 252, 0))
            .set_address(code::ROUTER, Ipv4Addr::new(10, 77, 0, 1))
            .set(code::NTP, &[10, 77, 0, 1, 10, 77, 0, 2])
            .set(code::LEASE_TIME, &7200u32.to_be_bytes());
        packet
    }

    #[test]
    fn an_offer_is_read_with_its_timers() {
        let packet = Packet::decode(&offer().encode()).unwrap();
        let Some(Answer::Offer(lease)) = answer(&ASKER, &packet) else { panic!("no offer in {packet:?}") };
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 77, 0, 100), 22));
        assert_eq!((lease.renew_secs, lease.rebind_secs, lease.lease_secs), (3600, 6300, 7200));
        assert_eq!(lease.ntp.len(), 2);
    }

    #[test]
    fn a_request_names_the_offer_and_its_server() {
        let Some(Answer::Offer(lease)) = answer(&ASKER, &offer()) else { panic!("no offer") };
        let packet = Packet::decode(&request(&ASKER, &lease).encode()).unwrap();
        assert_eq!(packet.options.address(code::REQUESTED_ADDRESS), Some(lease.address));
        assert_eq!(packet.options.address(code::SERVER_ID), Some(lease.server));
        assert!(packet.ciaddr.is_unspecified() && packet.broadcast);
    }

    #[test]
    fn a_renewal_has_the_address_in_the_header_only() {
        let held = Ipv4Addr::new(10, 77, 0, 100);
        let packet = renew(&ASKER, held);
        assert_eq!((packet.ciaddr, packet.options.address(code::REQUESTED_ADDRESS)), (held, None));
        assert_eq!(packet.options.address(code::SERVER_ID), None);
    }

    #[test]
    fn no_packet_of_an_agent_looks_like_firmware() {
        for packet in [discover(&ASKER), renew(&ASKER, Ipv4Addr::LOCALHOST)] {
            assert!(!packet.options.bytes(code::VENDOR_CLASS).unwrap().starts_with(b"PXEClient"));
            assert_eq!(packet.options.bytes(code::ARCHITECTURE), None);
        }
    }

    #[test]
    fn a_proxy_offer_and_a_strangers_answer_mean_nothing() {
        let mut proxy = offer();
        proxy.yiaddr = Ipv4Addr::UNSPECIFIED;
        assert_eq!(answer(&ASKER, &proxy), None);
        let mut stranger = offer();
        stranger.xid += 1;
        assert_eq!(answer(&ASKER, &stranger), None);
    }

    #[test]
    fn timers_out_of_order_fall_back_to_the_rfc() {
        let mut packet = offer();
        packet
            .options
            .set(code::RENEWAL_TIME, &9000u32.to_be_bytes())
            .set(code::REBINDING_TIME, &0u32.to_be_bytes());
        let Some(Answer::Offer(lease)) = answer(&ASKER, &packet) else { panic!("no offer") };
        assert_eq!((lease.renew_secs, lease.rebind_secs), (3600, 6300));
    }

    #[test]
    fn only_a_contiguous_mask_is_a_prefix() {
        let prefix = |mask: [u8; 4]| prefix_of(mask.into());
        assert_eq!(prefix([255, 255, 255, 0]), Some(24));
        assert_eq!(prefix([255; 4]), Some(32));
        assert_eq!(prefix([128, 0, 0, 0]), Some(1));
        assert_eq!(prefix([0; 4]), None);
        assert_eq!(prefix([255, 0, 255, 0]), None);
    }
}
