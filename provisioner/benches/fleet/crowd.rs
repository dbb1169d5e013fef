//! Ten thousand agents in one process: their keys, their addresses, their random delays.
//!
//! What real ones do and this does not: each would check the question itself (here once for all), and each has a
//! processor of its own for its signature (here one thread signs for all).

use super::home::{CLUSTER, address, key, name};
use muster_protocol::ids::{InstanceId, Role};
use muster_protocol::keys::SecretKey;
use muster_protocol::lan::{Brief, PORT, Packet, Question, window};
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::status::State;
use muster_protocol::wire;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// An answer that waits for its moment.
struct Due {
    at: Instant,
    node: u32,
    nonce: [u8; 16],
    to: SockaddrIn,
}

/// Answers until it is ended.
pub(super) fn answer(count: u32, operator: &str) -> ExitCode {
    let seed: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&operator[2 * at..2 * at + 2], 16).unwrap()).collect();
    let operator = SecretKey::from_seed(seed.try_into().unwrap()).public();
    let keys: Vec<SecretKey> = (0..count).map(key).collect();
    let prints: Vec<_> = keys.iter().map(|key| key.public().fingerprint()).collect();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).unwrap();
    let mut waiting: Vec<Due> = Vec::new();
    let mut asked_all = None;
    let mut luck = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        // The soonest is at the end.
        let pause = waiting
            .last()
            .map_or(Duration::from_secs(3600), |due| due.at.saturating_duration_since(Instant::now()));
        if pause.is_zero()
            && let Some(due) = waiting.pop()
        {
            let bytes = brief(due.node, &keys[due.node as usize], prints[due.node as usize], due.nonce);
            say(&socket, due.node, &bytes, &due.to);
            continue;
        }
        socket.set_read_timeout(Some(pause)).unwrap();
        let Some((question, asked, from)) = hear(&socket, &operator) else { continue };
        let window = window(question.fleet);
        let now = Instant::now();
        let one = u32::from(asked).wrapping_sub(u32::from(address(0)));
        // Everybody is asked on two broadcast addresses, and an agent takes a nonce once.
        let nodes = match one < count {
            true => one..one + 1,
            false if asked_all == Some(question.nonce) => continue,
            false => 0..count,
        };
        if one >= count {
            asked_all = Some(question.nonce);
        }
        for node in nodes {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            #[allow(clippy::cast_precision_loss, reason = "luck")]
            let part = (luck >> 32) as f64 / f64::from(u32::MAX);
            waiting.push(Due {
                at: now + window.mul_f64(part.min(1.0)),
                node,
                nonce: question.nonce,
                to: from,
            });
        }
        waiting.sort_by_key(|due| std::cmp::Reverse(due.at));
    }
}

/// The next question that the operator has signed, the address that was asked, and who asks.
fn hear(
    socket: &UdpSocket,
    operator: &muster_protocol::keys::PublicKey,
) -> Option<(Question, Ipv4Addr, SockaddrIn)> {
    let mut buffer = [0; 2048];
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let (length, asked, from) = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let heard =
            recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
                .ok()?;
        let asked = heard.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)))
            }
            _ => None,
        })?;
        (heard.bytes, asked, heard.address?)
    };
    let Packet::Ask(signed) = wire::decode(&buffer[..length]).ok()? else { return None };
    let question = signed.verify(By::Key(CLUSTER, operator), &Listener::default()).ok()?.into_inner();
    Some((question, asked, from))
}

fn say(socket: &UdpSocket, node: u32, bytes: &[u8], to: &SockaddrIn) {
    let source = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(address(node)).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let control = [ControlMessage::Ipv4PacketInfo(&source)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(to)).unwrap();
}

fn brief(node: u32, key: &SecretKey, print: muster_protocol::keys::Fingerprint, nonce: [u8; 16]) -> Vec<u8> {
    let brief = Brief {
        nonce,
        node: name(node),
        key: print,
        boot: InstanceId([0; 8]),
        sequence: 1,
        uptime_ms: 1,
        state: State::Ready,
        step: None,
        reason: None,
        role: Role::Worker,
        address: Some(address(node)),
        k3s_version: Some("v1.36.3+k3s1".into()),
        stand_ins: Vec::new(),
        etcd: None,
        kata: Some("4.1.0".into()),
        taints: Vec::new(),
    };
    wire::encode(&Packet::Answer { node: name(node), brief: Signed::by_key(CLUSTER, key, &brief) })
}
