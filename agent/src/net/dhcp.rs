//! Our own DHCP client (RFC 2131 §4.4): a machine that is told the time, and the loop that gives it packets.
//!
//! It asks for an address and keeps it while the boot image waits; it takes no routes from option 121 and no name
//! from a server. Renewals are broadcast like everything else: the packet socket knows no neighbours, and servers
//! answer both ways.

use super::packet::PacketSocket;
use muster_protocol::dhcp::Packet;
use muster_protocol::dhcp::client::{self, Answer, Asker, Lease};
use muster_protocol::ids::Mac;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// First wait for an answer; doubled up to the longest. A LAN answers in milliseconds, a port behind spanning tree
/// after 30 s.
const FIRST_MS: u64 = 1000;
const LONGEST_MS: u64 = 16_000;
/// How often an offer is asked for before it is taken for withdrawn.
const REQUESTS: u32 = 4;
/// Shortest time between two renewals (RFC 2131 §4.4.5).
const RENEW_MS: u64 = 60_000;

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Broadcast this from that address.
    Send { from: Ipv4Addr, packet: Box<Packet> },
    /// The address is ours.
    Bound(Lease),
    /// The address is no longer ours.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting {
        offer: Lease,
        left: u32,
    },
    /// Times in milliseconds of the machine's clock.
    Bound {
        lease: Lease,
        renew_at: u64,
        rebind_at: u64,
        ends_at: u64,
    },
}

/// One client on one port. `luck` is any number: it seeds transaction id and jitter.
pub struct Machine {
    mac: Mac,
    xid: u32,
    luck: u32,
    began_ms: u64,
    state: State,
    wait_ms: u64,
    deadline_ms: u64,
    out: VecDeque<Output>,
}

impl Machine {
    pub fn new(mac: Mac, luck: u32, now_ms: u64) -> Self {
        let mut machine = Self {
            mac,
            xid: luck,
            luck: luck | 1,
            began_ms: now_ms,
            state: State::Selecting,
            wait_ms: FIRST_MS,
            deadline_ms: now_ms,
            out: VecDeque::new(),
        };
        machine.select(now_ms);
        machine
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub fn next_deadline(&self) -> u64 {
        self.deadline_ms
    }

    /// A packet from the network. What is not an answer to us changes nothing.
    pub fn handle(&mut self, now_ms: u64, packet: &Packet) {
        let Some(answer) = client::answer(&self.asker(now_ms), packet) else { return };
        match (&self.state, answer) {
            (State::Selecting, Answer::Offer(offer)) => {
                self.wait_ms = FIRST_MS;
                self.state = State::Requesting { offer, left: REQUESTS };
                self.expire(now_ms.max(self.deadline_ms));
            }
            (State::Requesting { offer, .. }, Answer::Ack(lease)) if offer.address == lease.address => {
                self.bind(now_ms, lease);
            }
            (State::Bound { lease: held, renew_at, .. }, Answer::Ack(lease)) if now_ms >= *renew_at => {
                if held.address != lease.address {
                    self.out.push_back(Output::Lost);
                }
                self.bind(now_ms, lease);
            }
            (State::Requesting { .. }, Answer::Nak) => self.select(now_ms),
            (State::Bound { renew_at, .. }, Answer::Nak) if now_ms >= *renew_at => {
                self.out.push_back(Output::Lost);
                self.select(now_ms);
            }
            (
                State::Selecting | State::Requesting { .. } | State::Bound { .. },
                Answer::Offer(_) | Answer::Ack(_) | Answer::Nak,
            ) => {}
        }
    }

    /// The deadline has passed.
    pub fn expire(&mut self, now_ms: u64) {
        if now_ms < self.deadline_ms {
            return;
        }
        match self.state.clone() {
            State::Selecting => {
                let packet = client::discover(&self.asker(now_ms));
                self.send(now_ms, Ipv4Addr::UNSPECIFIED, packet);
            }
            State::Requesting { left: 0, .. } => self.select(now_ms),
            State::Requesting { offer, left } => {
                let packet = client::request(&self.asker(now_ms), &offer);
                self.state = State::Requesting { offer, left: left - 1 };
                self.send(now_ms, Ipv4Addr::UNSPECIFIED, packet);
            }
            State::Bound { ends_at, .. } if now_ms >= ends_at => {
                self.out.push_back(Output::Lost);
                self.select(now_ms);
            }
            State::Bound { lease, rebind_at, ends_at, .. } => {
                let packet = client::renew(&self.asker(now_ms), lease.address);
                self.out.push_back(Output::Send { from: lease.address, packet: Box::new(packet) });
                // Half of what is left until the next threshold (RFC 2131 §4.4.5), at least a minute.
                let until = if now_ms < rebind_at { rebind_at } else { ends_at };
                let half = (until.saturating_sub(now_ms) / 2).max(RENEW_MS);
                self.deadline_ms = (now_ms + half).min(ends_at.max(now_ms + 1));
            }
        }
    }

    fn select(&mut self, now_ms: u64) {
        self.state = State::Selecting;
        self.xid = self.random();
        self.wait_ms = FIRST_MS;
        self.deadline_ms = now_ms;
        self.expire(now_ms);
    }

    fn bind(&mut self, now_ms: u64, lease: Lease) {
        let at = |secs: u32| now_ms + u64::from(secs) * 1000;
        let (renew_at, rebind_at, ends_at) =
            (at(lease.renew_secs), at(lease.rebind_secs), at(lease.lease_secs));
        self.deadline_ms = renew_at;
        self.state = State::Bound { lease: lease.clone(), renew_at, rebind_at, ends_at };
        self.out.push_back(Output::Bound(lease));
    }

    fn send(&mut self, now_ms: u64, from: Ipv4Addr, packet: Packet) {
        self.out.push_back(Output::Send { from, packet: Box::new(packet) });
        // Seven machines switched on together must not ask in step: ±25 %.
        let jitter = self.wait_ms * u64::from(self.random() % 501) / 1000;
        self.deadline_ms = now_ms + self.wait_ms * 3 / 4 + jitter;
        self.wait_ms = (self.wait_ms * 2).min(LONGEST_MS);
    }

    fn asker(&self, now_ms: u64) -> Asker<'static> {
        let secs = u16::try_from(now_ms.saturating_sub(self.began_ms) / 1000).unwrap_or(u16::MAX);
        Asker { mac: self.mac, xid: self.xid, secs, hostname: None }
    }

    /// xorshift32: ids that differ and jitter, nothing secret.
    fn random(&mut self) -> u32 {
        self.luck ^= self.luck << 13;
        self.luck ^= self.luck >> 17;
        self.luck ^= self.luck << 5;
        self.luck
    }
}

/// What a port's client tells its owner.
#[derive(Debug)]
pub enum Event {
    Bound(Lease),
    Lost,
}

/// Runs a client on one interface until its socket breaks or the owner is gone.
pub async fn run(
    interface: u32,
    mac: Mac,
    luck: u32,
    tell: mpsc::Sender<(u32, Event)>,
) -> std::io::Result<()> {
    let socket = PacketSocket::open(interface)?;
    let epoch = Instant::now();
    let now = || u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut machine = Machine::new(mac, luck, 0);
    loop {
        while let Some(output) = machine.poll_output() {
            let event = match output {
                Output::Send { from, packet } => {
                    socket.send(from, &packet.encode()).await?;
                    continue;
                }
                Output::Bound(lease) => Event::Bound(lease),
                Output::Lost => Event::Lost,
            };
            if tell.send((interface, event)).await.is_err() {
                return Ok(());
            }
        }
        let deadline = epoch + Duration::from_millis(machine.next_deadline());
        tokio::select! {
            bytes = socket.receive() => match Packet::decode(&bytes?) {
                Ok(packet) => machine.handle(now(), &packet),
                Err(why) => tracing::debug!(%why, "not a DHCP packet"),
            },
            () = tokio::time::sleep_until(deadline) => machine.expire(now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::dhcp::{MessageType, Op, code};
    use proptest::prelude::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x11]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

    fn sent(machine: &mut Machine) -> Packet {
        match machine.poll_output() {
            Some(Output::Send { packet, .. }) => *packet,
            other => panic!("{other:?}"),
        }
    }

    fn reply(to: &Packet, message: MessageType, address: Ipv4Addr) -> Packet {
        let mut packet = Packet::new(Op::Reply, to.xid, to.mac);
        packet.yiaddr = address;
        packet
            .options
            .set_message(message)
            .set_address(code::SERVER_ID, SERVER)
            .set(code::LEASE_TIME, &600_u32.to_be_bytes());
        packet
    }

    fn bound(machine: &mut Machine) -> Lease {
        let discover = sent(machine);
        machine.handle(10, &reply(&discover, MessageType::Offer, ADDRESS));
        let request = sent(machine);
        assert_eq!(request.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
        machine.handle(20, &reply(&request, MessageType::Ack, ADDRESS));
        match machine.poll_output() {
            Some(Output::Bound(lease)) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_offer_is_asked_for_at_once_and_its_ack_binds() {
        let mut machine = Machine::new(MAC, 7, 0);
        let lease = bound(&mut machine);
        assert_eq!((lease.address, lease.server), (ADDRESS, SERVER));
        assert_eq!(machine.next_deadline(), 20 + 300_000);
        assert_eq!(machine.poll_output(), None);
    }

    #[test]
    fn silence_is_asked_again_and_slower() {
        let mut machine = Machine::new(MAC, 7, 0);
        let mut waits = Vec::new();
        let mut now = 0;
        for _ in 0..8 {
            sent(&mut machine);
            waits.push(machine.next_deadline() - now);
            now = machine.next_deadline();
            machine.expire(now);
        }
        assert!((750..=1250).contains(&waits[0]), "{waits:?}");
        assert!(waits[7] >= 12_000 && waits[7] <= 20_000, "{waits:?}");
    }

    #[test]
    fn a_refused_request_starts_over_with_another_id() {
        let mut machine = Machine::new(MAC, 7, 0);
        let discover = sent(&mut machine);
        machine.handle(10, &reply(&discover, MessageType::Offer, ADDRESS));
        let request = sent(&mut machine);
        machine.handle(20, &reply(&request, MessageType::Nak, ADDRESS));
        let again = sent(&mut machine);
        assert_eq!(again.options.message(), Some(MessageType::Discover));
        assert_ne!(again.xid, discover.xid);
    }

    #[test]
    fn a_lease_is_renewed_and_given_up_when_nobody_answers() {
        let mut machine = Machine::new(MAC, 7, 0);
        bound(&mut machine);
        let mut renewals = 0;
        loop {
            let now = machine.next_deadline();
            machine.expire(now);
            match machine.poll_output() {
                Some(Output::Send { from, packet }) => {
                    assert_eq!((from, packet.ciaddr), (ADDRESS, ADDRESS));
                    renewals += 1;
                }
                Some(Output::Lost) => {
                    assert!(now >= 20 + 600_000, "{now}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((2..=6).contains(&renewals), "{renewals}");
        assert_eq!(sent(&mut machine).options.message(), Some(MessageType::Discover));
    }

    #[test]
    fn a_renewed_lease_moves_its_end() {
        let mut machine = Machine::new(MAC, 7, 0);
        bound(&mut machine);
        let now = machine.next_deadline();
        machine.expire(now);
        let renew = sent(&mut machine);
        machine.handle(now + 5, &reply(&renew, MessageType::Ack, ADDRESS));
        assert!(matches!(machine.poll_output(), Some(Output::Bound(_))));
        assert_eq!(machine.next_deadline(), now + 5 + 300_000);
    }

    proptest! {
        /// Whatever arrives whenever: there is always a later deadline, and a lease is lost only after it was bound.
        #[test]
        fn any_exchange_keeps_the_machine_going(steps in prop::collection::vec((0_u8..5, 0_u64..200_000, any::<u8>()), 1..60), luck in any::<u32>()) {
            let mut machine = Machine::new(MAC, luck, 0);
            let mut last = Packet::new(Op::Request, 0, MAC);
            let (mut now, mut held) = (0, false);
            for (kind, pause, host) in steps {
                now += pause;
                let address = Ipv4Addr::new(10, 77, 0, host);
                match kind {
                    0 => machine.handle(now, &reply(&last, MessageType::Offer, address)),
                    1 => machine.handle(now, &reply(&last, MessageType::Ack, address)),
                    2 => machine.handle(now, &reply(&last, MessageType::Nak, address)),
                    _ => machine.expire(now),
                }
                while let Some(output) = machine.poll_output() {
                    match output {
                        Output::Send { packet, .. } => last = *packet,
                        Output::Bound(_) => held = true,
                        Output::Lost => { prop_assert!(held); held = false; }
                    }
                }
                machine.expire(now);
                prop_assert!(machine.next_deadline() > now);
            }
        }
    }
}
