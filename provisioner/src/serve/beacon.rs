//! Being found, and finding others: a signed call every two seconds, and a challenge to whoever calls as we do.
//!
//! Our own call heard on a second card, and a replayed one, are no second provisioner: that is one only when it signs a
//! fresh nonce. An answer is never longer than what asked for it.

use super::link::udp;
use super::shared::Shared;
use crate::store::rows::COUNTERS;
use crate::store::{Read, Store, StoreError};
use muster_protocol::beacon::{Beacon, BeaconProof, Call, PORT};
use muster_protocol::ids::{ClusterId, InstanceId};
use muster_protocol::signed::{By, Listener, OnlineKey, Signed, Trust};
use muster_protocol::wire;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

pub const EVERY: Duration = Duration::from_secs(2);
/// How long a starting provisioner listens for another one.
const LISTEN: Duration = Duration::from_millis(900);
/// Sequence numbers are reserved in blocks: one save for half an hour of beacons.
const BLOCK: u64 = 1000;
/// Proofs per second: a flood of challenges must not become a flood of signatures.
const PROOFS_PER_S: u32 = 20;
/// Challenges that may be unanswered.
const OPEN: usize = 16;

/// What a packet leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    Reply(Vec<u8>),
    /// Another provisioner of this cluster is alive there.
    Second(IpAddr),
}

/// This provisioner on the air.
pub struct Voice {
    trust: Trust,
    online: OnlineKey,
    instance: InstanceId,
    api_port: u16,
    sequence: u64,
    reserved: u64,
    open: Vec<[u8; 16]>,
    proofs: (u64, u32),
}

impl Voice {
    pub fn new(trust: Trust, online: OnlineKey, instance: InstanceId, api_port: u16) -> Self {
        Self { trust, online, instance, api_port, sequence: 0, reserved: 0, open: Vec::new(), proofs: (0, 0) }
    }

    /// The next call; `None` until a block of numbers was reserved.
    fn call(&mut self) -> Option<Vec<u8>> {
        if self.sequence >= self.reserved {
            return None;
        }
        self.sequence += 1;
        let beacon = Beacon {
            instance: self.instance,
            sequence: self.sequence,
            api_port: self.api_port,
            // HTTP boot has no other port in its URL.
            http_port: 80,
        };
        Some(wire::encode(&Call::Beacon(Signed::by_online(self.cluster(), &self.online, &beacon))))
    }

    fn cluster(&self) -> ClusterId {
        self.trust.cluster
    }

    /// "Prove that you are a live provisioner of this cluster", as long as the proof.
    pub fn challenge(&mut self, nonce: [u8; 16]) -> Vec<u8> {
        if self.open.len() >= OPEN {
            self.open.remove(0);
        }
        self.open.push(nonce);
        let want = self.proof(nonce).len();
        let bare = wire::encode(&Call::Challenge { nonce, padding: Vec::new() }).len();
        // The length of the padding takes up to two bytes of its own.
        let padding = vec![0; want.saturating_sub(bare) + 2];
        wire::encode(&Call::Challenge { nonce, padding })
    }

    fn proof(&self, nonce: [u8; 16]) -> Vec<u8> {
        let proof = BeaconProof { instance: self.instance, nonce };
        wire::encode(&Call::Proof(Signed::by_online(self.cluster(), &self.online, &proof)))
    }

    pub fn hear(&mut self, now_ms: u64, from: IpAddr, bytes: &[u8], nonce: [u8; 16]) -> Heard {
        let Ok(call) = wire::decode::<Call>(bytes) else { return Heard::Nothing };
        match call {
            Call::Beacon(signed) => match signed.verify(By::Online(&self.trust), &Listener::default()) {
                Ok(beacon) if beacon.get().instance != self.instance => Heard::Reply(self.challenge(nonce)),
                Ok(_) | Err(_) => Heard::Nothing,
            },
            Call::Challenge { nonce, .. } => {
                if self.open.contains(&nonce) || !self.may_prove(now_ms) {
                    return Heard::Nothing;
                }
                let proof = self.proof(nonce);
                if proof.len() > bytes.len() { Heard::Nothing } else { Heard::Reply(proof) }
            }
            Call::Proof(signed) => match signed.verify(By::Online(&self.trust), &Listener::default()) {
                Ok(proof) => {
                    let proof = proof.into_inner();
                    let asked = self.open.iter().position(|open| *open == proof.nonce);
                    match asked {
                        Some(at) if proof.instance != self.instance => {
                            self.open.remove(at);
                            Heard::Second(from)
                        }
                        Some(_) | None => Heard::Nothing,
                    }
                }
                Err(_) => Heard::Nothing,
            },
        }
    }

    fn may_prove(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.proofs.0 != second {
            self.proofs = (second, 0);
        }
        self.proofs.1 += 1;
        self.proofs.1 <= PROOFS_PER_S
    }

    /// Reserves the next block of numbers before any of it is sent.
    pub fn reserve(&mut self, store: &Store) -> Result<(), StoreError> {
        let first = store.write(|tx| {
            let first = tx.get(COUNTERS, "beacon")?.unwrap_or(0);
            tx.put(COUNTERS, "beacon", &(first + BLOCK))?;
            Ok::<u64, StoreError>(first)
        })?;
        (self.sequence, self.reserved) = (first, first + BLOCK);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BeaconError {
    #[error(
        "another provisioner of this cluster is alive at {0}\nhint: stop it first; two would hand out orders against each other"
    )]
    Second(IpAddr),
    #[error("the beacon's socket")]
    Io(#[from] io::Error),
    #[error("the system gives no random bytes")]
    Random,
    #[error("the store")]
    Store(#[from] StoreError),
    #[error("the core broke")]
    Core,
}

/// The socket on 7480/udp of one interface.
pub struct Socket {
    interface: String,
    udp: UdpSocket,
}

/// Opens 7480/udp; must run inside a tokio runtime.
pub fn open(interface: &str) -> io::Result<Socket> {
    Ok(Socket { interface: interface.into(), udp: listen(interface)? })
}

fn listen(interface: &str) -> io::Result<UdpSocket> {
    let socket = udp(interface, PORT)?;
    socket.set_broadcast(true)?;
    UdpSocket::from_std(socket.into())
}

fn nonce() -> Result<[u8; 16], BeaconError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| BeaconError::Random)?;
    Ok(nonce)
}

const EVERYBODY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::BROADCAST, PORT));

/// Asks around; an error when another provisioner of this cluster answers.
pub async fn alone(socket: &Socket, voice: &mut Voice) -> Result<(), BeaconError> {
    let end = Instant::now() + LISTEN;
    let question = voice.challenge(nonce()?);
    socket.udp.send_to(&question, EVERYBODY).await?;
    let mut buffer = [0; 2048];
    while let Ok(received) = timeout_at(end, socket.udp.recv_from(&mut buffer)).await {
        let (length, from) = received?;
        match voice.hear(0, from.ip(), &buffer[..length], nonce()?) {
            Heard::Nothing => {}
            Heard::Reply(reply) => {
                socket.udp.send_to(&reply, from).await?;
            }
            Heard::Second(at) => return Err(BeaconError::Second(at)),
        }
    }
    Ok(())
}

/// Calls and listens for ever.
pub async fn run(mut socket: Socket, mut voice: Voice, shared: Shared) -> Result<(), BeaconError> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = [0; 2048];
    loop {
        tokio::select! {
            _ = ticks.tick() => voice = call(&mut socket, voice, &shared).await?,
            received = socket.udp.recv_from(&mut buffer) => match received {
                Ok((length, from)) => hear(&socket, &mut voice, &shared, from, &buffer[..length]).await?,
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    ticks.tick().await;
                }
            },
        }
    }
}

async fn call(socket: &mut Socket, mut voice: Voice, shared: &Shared) -> Result<Voice, BeaconError> {
    let bytes = match voice.call() {
        Some(bytes) => Some(bytes),
        None => {
            let reserved = shared.ask(move |core, _| voice.reserve(core.store()).map(|()| voice)).await;
            voice = reserved.map_err(|_| BeaconError::Core)??;
            voice.call()
        }
    };
    let Some(bytes) = bytes else { return Ok(voice) };
    if let Err(error) = socket.udp.send_to(&bytes, EVERYBODY).await {
        tracing::debug!(%error, "beacon not sent");
        // The interface went away; when it is back it is another one to the kernel.
        if let Ok(again) = listen(&socket.interface) {
            socket.udp = again;
        }
    }
    Ok(voice)
}

async fn hear(
    socket: &Socket,
    voice: &mut Voice,
    shared: &Shared,
    from: SocketAddr,
    bytes: &[u8],
) -> Result<(), BeaconError> {
    let now_ms = shared.now().mono_ms;
    match voice.hear(now_ms, from.ip(), bytes, nonce()?) {
        Heard::Nothing => {}
        Heard::Reply(reply) => {
            if let Err(error) = socket.udp.send_to(&reply, from).await {
                tracing::debug!(%error, %from, "answer not sent");
            }
        }
        Heard::Second(at) => {
            shared
                .ask(move |core, now| core.second_provisioner(now, at))
                .await
                .map_err(|_| BeaconError::Core)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::Delegation;

    const AT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 9));

    fn voice(instance: u8, root: u8) -> Voice {
        let cluster = ClusterId([1; 16]);
        let (root, secret) = (SecretKey::from_seed([root; 32]), SecretKey::from_seed([9; 32]));
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let delegation = Signed::by_key(cluster, &root, &delegation);
        let trust = Trust { cluster, cluster_name: "t".into(), root: root.public().verify, build_epoch: 0 };
        let mut voice =
            Voice::new(trust, OnlineKey { secret, delegation, number: 1 }, InstanceId([instance; 8]), 7480);
        voice.reserved = 10;
        voice
    }

    fn hear(voice: &mut Voice, bytes: &[u8]) -> Heard {
        voice.hear(0, AT, bytes, [3; 16])
    }

    #[test]
    fn another_instance_is_challenged_and_its_proof_is_believed_once() {
        let (mut ours, mut other) = (voice(1, 1), voice(2, 1));
        let Heard::Reply(challenge) = hear(&mut ours, &other.call().unwrap()) else { panic!() };
        let Heard::Reply(proof) = hear(&mut other, &challenge) else { panic!() };
        assert!(proof.len() <= challenge.len(), "{} for {}", proof.len(), challenge.len());
        assert_eq!(hear(&mut ours, &proof), Heard::Second(AT));
        assert_eq!(hear(&mut ours, &proof), Heard::Nothing, "a replay proves nothing");
    }

    #[test]
    fn our_own_call_and_challenge_are_not_another_provisioner() {
        let mut ours = voice(1, 1);
        let call = ours.call().unwrap();
        assert_eq!(hear(&mut ours, &call), Heard::Nothing);
        let challenge = ours.challenge([5; 16]);
        assert_eq!(hear(&mut ours, &challenge), Heard::Nothing);
    }

    #[test]
    fn another_clusters_provisioner_is_none_of_our_business() {
        let (mut ours, mut other) = (voice(1, 1), voice(2, 2));
        assert_eq!(hear(&mut ours, &other.call().unwrap()), Heard::Nothing);
    }

    #[test]
    fn a_short_challenge_gets_no_longer_answer() {
        let bare = wire::encode(&Call::Challenge { nonce: [7; 16], padding: Vec::new() });
        assert_eq!(hear(&mut voice(1, 1), &bare), Heard::Nothing);
        assert_eq!(hear(&mut voice(1, 1), b"\xff\xff"), Heard::Nothing);
    }

    #[test]
    fn proofs_are_given_a_few_times_a_second() {
        let (mut ours, mut other) = (voice(1, 1), voice(2, 1));
        let replies = (0..40).filter(|n| {
            let challenge = other.challenge([*n; 16]);
            matches!(hear(&mut ours, &challenge), Heard::Reply(_))
        });
        assert_eq!(replies.count(), PROOFS_PER_S as usize);
    }
}
