//! One thread's transfers: waits for sockets and timers, hands packets to the transfers, does what they say.

use super::{
    batch::{Batch, Window},
    clients::Mine,
    deadlines::{Alarm, Deadlines},
    inbox::{Asked, Inbox},
    mapped::{Mapped, Maps},
    packet::{Fault, Malformed, Mode, Packet, Request, decode, error},
    terms::agree,
    told::ended,
    transfer::{End, Input, Output, Transfer},
};
use crate::{
    boot::{
        event::{BootEvent, What},
        published::{NotServed, Published},
    },
    serve::link::udp_at,
};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, SockaddrIn, recvfrom, sendto},
    },
};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, info, warn};

pub(super) struct Worker {
    interface: String,
    published: Published,
    events: UnboundedSender<BootEvent>,
    mine: Mine,
    epoll: Epoll,
    sessions: HashMap<u64, Session>,
    /// The newest transfer of each client port.
    peers: HashMap<SocketAddrV4, u64>,
    deadlines: Deadlines,
    alarm: Alarm,
    batch: Batch,
    maps: Maps,
    next_key: u64,
    most_sessions: usize,
}

/// A transfer with what the edge has to know of it.
struct Session {
    transfer: Transfer,
    socket: UdpSocket,
    peer: SocketAddrV4,
    name: String,
    size: u64,
    file: Arc<Mapped>,
    began: Instant,
    /// Whether the start was told; that is when the client has shown itself.
    told: bool,
    /// The time of this transfer's entry in the deadlines.
    promised: Instant,
}

impl Worker {
    /// For so many transfers at a time. What else it is to watch comes with [`Self::watch`].
    pub(super) fn new(
        interface: String,
        published: Published,
        events: UnboundedSender<BootEvent>,
        mine: Mine,
        most_sessions: usize,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = Alarm::new()?;
        epoll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        Ok(Self {
            interface,
            published,
            events,
            mine,
            epoll,
            sessions: HashMap::new(),
            peers: HashMap::new(),
            deadlines: Deadlines::default(),
            alarm,
            batch: Batch::default(),
            maps: Maps::default(),
            next_key: FIRST_KEY,
            most_sessions,
        })
    }

    /// Has [`Self::wait`] give this key when the descriptor is readable; small numbers are free.
    pub(super) fn watch(&self, what: impl AsFd, key: u64) -> io::Result<()> {
        Ok(self.epoll.add(what, EpollEvent::new(EpollFlags::EPOLLIN, key))?)
    }

    /// Until the door is gone.
    pub(super) fn run(mut self, inbox: &Inbox) -> io::Result<()> {
        self.watch(inbox, INBOX)?;
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        loop {
            let count = self.wait(&mut ready, None)?;
            let now = Instant::now();
            for event in &ready[..count] {
                match event.data() {
                    // One of them, and again in the next turn: a flood of requests must not starve the transfers.
                    INBOX => match inbox.take() {
                        ControlFlow::Continue(Some(asked)) => self.request(now, &asked),
                        ControlFlow::Continue(None) => {}
                        ControlFlow::Break(()) => return Ok(()),
                    },
                    key => self.ready(now, key)?,
                }
            }
        }
    }

    /// Does what is due, then waits for sockets, timers, and at last for `until`.
    pub(super) fn wait(&mut self, ready: &mut [EpollEvent], until: Option<Instant>) -> io::Result<usize> {
        let now = Instant::now();
        self.expire(now);
        if let Some(next) = self.deadlines.next().into_iter().chain(until).min() {
            self.alarm.set(next, now)?;
        }
        match self.epoll.wait(ready, EpollTimeout::NONE) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Something came for one of the transfers, or the time has.
    pub(super) fn ready(&mut self, now: Instant, key: u64) -> io::Result<()> {
        match key {
            ALARM => self.alarm.rang()?,
            key => drop(self.serve(now, key)),
        }
        Ok(())
    }

    /// Takes a request of a client that was given to this thread.
    pub(super) fn request(&mut self, now: Instant, asked: &Asked) {
        self.answer(now, asked);
        if !self.peers.contains_key(&asked.peer) {
            self.mine.is_done_with(asked.peer);
        }
    }

    fn answer(&mut self, now: Instant, asked: &Asked) {
        let peer = asked.peer;
        let request = match decode(&asked.bytes) {
            Ok(Packet::Read(request)) => request,
            Ok(Packet::Write) => return asked.refuse(Fault::AccessViolation, "read only"),
            Ok(Packet::Data | Packet::Ack(_) | Packet::Oack) => {
                return asked.refuse(Fault::UnknownTransfer, "no such transfer here");
            }
            // An error is never answered with an error.
            Ok(Packet::Error { .. }) => return,
            Err(Malformed::LongName(_)) => return asked.refuse(Fault::NotFound, "no such file"),
            Err(why) => {
                debug!(%peer, %why, "not a TFTP request");
                return asked.refuse(Fault::IllegalOperation, "not a request");
            }
        };
        if let Some(key) = self.peers.get(&peer).copied() {
            // What the client said to its last transfer comes before what it says now.
            for _ in 0..8 {
                if !self.serve(now, key) {
                    break;
                }
            }
        }
        if let Some(key) = self.peers.get(&peer).copied() {
            if self.sessions.get(&key).is_some_and(|session| session.transfer.lively(now)) {
                return debug!(%peer, "a late copy of a request");
            }
            self.finish(key, None);
        }
        self.begin(now, &request, asked);
    }

    fn begin(&mut self, now: Instant, request: &Request, asked: &Asked) {
        let peer = asked.peer;
        let name = String::from_utf8_lossy(request.name).into_owned();
        if request.mode != Mode::Octet {
            return asked.refuse(Fault::NotDefined, "only octet mode is served");
        }
        let opened = match self.published.open(&name) {
            Ok(opened) => opened,
            Err(why) => {
                let shown: String =
                    name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
                info!(%peer, name = shown, %why, "file not served");
                asked.refuse(fault_of(&why), "no such file");
                return self.tell(peer, What::TftpFailed { name: shown, why: why.to_string() });
            }
        };
        if self.sessions.len() >= self.most_sessions && !self.evict() {
            warn!(%peer, name, "too many transfers");
            return asked.refuse(Fault::NotDefined, "busy, ask again");
        }
        let size = opened.size;
        let terms = agree(request, size, asked.largest_block);
        let key = self.next_key;
        let (socket, file) =
            match self.transfer_socket(asked.local, key).and_then(|s| Ok((s, self.maps.of(&opened)?))) {
                Ok(both) => both,
                Err(error) => {
                    warn!(%peer, name, %error, "no socket or no room for a transfer");
                    return asked.refuse(Fault::NotDefined, "busy, ask again");
                }
            };
        self.next_key += 1;
        debug!(%peer, name, block = terms.block, window = terms.window, "transfer asked for");
        let transfer = Transfer::new(now, size, terms);
        let promised = transfer.next_deadline();
        let session = Session { transfer, socket, peer, name, size, file, began: now, told: false, promised };
        self.deadlines.promise(promised, key);
        self.sessions.insert(key, session);
        self.peers.insert(peer, key);
        self.mine.has(peer);
        self.act(key);
    }

    /// A socket with a port of its own, at the address the client asked.
    fn transfer_socket(&self, local: Ipv4Addr, key: u64) -> io::Result<UdpSocket> {
        let socket = udp_at(&self.interface, SocketAddrV4::new(local, 0))?;
        // Room for a few windows of 64; the kernel gives what its limits allow.
        socket.set_send_buffer_size(1 << 20)?;
        let socket = UdpSocket::from(socket);
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        Ok(socket)
    }

    /// Takes one packet that arrived for a transfer; whether there was one. What is left wakes us again, and in lockstep
    /// nothing is: asking once more would be a call for each block.
    fn serve(&mut self, now: Instant, key: u64) -> bool {
        let mut buffer = [0; 600];
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let (length, from) = match recvfrom::<SockaddrIn>(session.socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => (length, SocketAddrV4::new(from.ip(), from.port())),
            Ok((_, None)) => return true,
            Err(Errno::EAGAIN) => return false,
            Err(errno) => {
                debug!(%errno, "receiving for a transfer failed");
                return false;
            }
        };
        let packet = decode(&buffer[..length]);
        if from != session.peer {
            // RFC 1350 §4: a stranger is told so, the transfer goes on.
            if !matches!(packet, Ok(Packet::Error { .. })) {
                debug!(%from, peer = %session.peer, "a packet from the wrong port");
                let bytes = error(Fault::UnknownTransfer, "not your transfer");
                let to = SockaddrIn::from(from);
                let _ = sendto(session.socket.as_raw_fd(), &bytes, &to, MsgFlags::MSG_DONTWAIT);
            }
            return true;
        }
        let input = match packet {
            Ok(Packet::Ack(number)) => Input::Ack(number),
            Ok(Packet::Error { code, text }) => {
                debug!(peer = %session.peer, code, text = %String::from_utf8_lossy(text), "client's error");
                Input::Error { code }
            }
            Ok(Packet::Read(_) | Packet::Write | Packet::Data | Packet::Oack) | Err(_) => return true,
        };
        session.transfer.handle(now, input);
        self.act(key);
        true
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.take_due(now) {
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            // An entry that was overtaken by an earlier one.
            if session.promised != at {
                continue;
            }
            session.transfer.expire(now);
            session.promised = session.transfer.next_deadline();
            self.deadlines.promise(session.promised, key);
            self.act(key);
        }
    }

    /// Does what a transfer wants done.
    fn act(&mut self, key: u64) {
        let mut end = None;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        while let Some(output) = session.transfer.poll_output() {
            let to = SockaddrIn::from(session.peer);
            match output {
                Output::Oack => {
                    let bytes = session.transfer.terms().oack.as_deref().unwrap_or_default();
                    // Lost or not sent, the timer sends it again.
                    let _ = sendto(session.socket.as_raw_fd(), bytes, &to, MsgFlags::MSG_DONTWAIT);
                }
                Output::Blocks { first, count } => {
                    let block = session.transfer.terms().block;
                    let window = Window { file: &session.file, block, first, count };
                    if let Err(error) = self.batch.send(&session.socket, &to, window) {
                        warn!(name = session.name, peer = %session.peer, %error, "cannot send");
                        end = Some(Err(error));
                    }
                }
                Output::End(how) => end = Some(Ok(how)),
            }
        }
        if session.transfer.next_deadline() < session.promised {
            session.promised = session.transfer.next_deadline();
            self.deadlines.promise(session.promised, key);
        }
        if session.transfer.proven() && !session.told {
            session.told = true;
            let (peer, name) = (session.peer, session.name.clone());
            self.tell(peer, What::TftpStart { name });
        }
        if let Some(end) = end {
            self.finish(key, Some(end));
        }
    }

    /// Forgets a transfer and tells how it ended; `None`: the client began another one.
    fn finish(&mut self, key: u64, end: Option<io::Result<End>>) {
        let Some(Session { peer, name, size, began, told, .. }) = self.sessions.remove(&key) else {
            return;
        };
        if self.peers.get(&peer) == Some(&key) {
            self.peers.remove(&peer);
            self.mine.is_done_with(peer);
        }
        let what = match end {
            Some(end) => ended(end, name, size, began.elapsed()),
            // Asked again before it ever answered: nothing was lost.
            None if !told => return debug!(%peer, name, "asked again"),
            None => What::TftpFailed { name, why: "the client began again".into() },
        };
        match &what {
            What::TftpDone { name, bytes, ms } => info!(%peer, name, bytes, ms, "file sent"),
            what => info!(%peer, ?what, "transfer ended"),
        }
        self.tell(peer, what);
    }

    /// Makes room by forgetting the oldest client that has not shown itself.
    fn evict(&mut self) -> bool {
        let unproven = self.sessions.iter().filter(|(_, session)| !session.transfer.proven());
        let Some(key) = unproven.min_by_key(|(_, session)| session.began).map(|(key, _)| *key) else {
            return false;
        };
        self.finish(key, Some(Ok(End::NeverAnswered)));
        true
    }

    fn tell(&self, peer: SocketAddrV4, what: What) {
        // The receiver is gone when the provisioner is ending.
        let _ = self.events.send(BootEvent {
            at: SystemTime::now(),
            mac: None,
            peer: IpAddr::V4(*peer.ip()),
            what,
        });
    }
}

fn fault_of(why: &NotServed) -> Fault {
    match why {
        NotServed::Unknown => Fault::NotFound,
        NotServed::Open { .. } | NotServed::Changed { .. } => Fault::NotDefined,
    }
}

/// Keys below are for what else a thread watches.
const FIRST_KEY: u64 = 16;
const ALARM: u64 = 15;
const INBOX: u64 = 0;
/// Events taken from the kernel in one call.
pub(super) const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests;
