//! Port 69: takes requests in and hands each to the thread that has this client's transfers. The first of them is this
//! one: a client that comes alone is served without a hop from thread to thread.

use super::{
    Listener,
    clients::Clients,
    inbox::{Asked, Post},
    receive::{listen, receive_request},
    terms::largest_block,
    worker::{AT_ONCE, Worker},
};
use crate::serve::link::{LOOK, look};
use nix::{
    errno::Errno,
    sys::{epoll::EpollEvent, eventfd::EventFd},
};
use std::{io, sync::Arc, time::Instant};
use tracing::{debug, info, warn};

pub(super) struct Door {
    listener: Listener,
    clients: Clients,
    own: Worker,
    /// The second thread's and so on.
    others: Vec<Post>,
    largest_block: u16,
    next_look: Instant,
}

impl Door {
    pub(super) fn new(listener: Listener, clients: Clients, own: Worker, others: Vec<Post>) -> Self {
        Self { listener, clients, own, others, largest_block: 512, next_look: Instant::now() }
    }

    /// Until it is told to stop; the other threads end with it.
    pub(super) fn run(mut self, stop: &EventFd) -> io::Result<()> {
        self.own.watch(&*self.listener.socket, LISTENER)?;
        self.own.watch(stop, STOP)?;
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        loop {
            self.look(Instant::now());
            let count = self.own.wait(&mut ready, Some(self.next_look))?;
            let now = Instant::now();
            for event in &ready[..count] {
                match event.data() {
                    STOP => return stop.read().map(drop).map_err(Into::into),
                    LISTENER => self.requests(now),
                    key => self.own.ready(now, key)?,
                }
            }
        }
    }

    /// Follows the interface: its MTU, and a new socket when it came back as another one.
    fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let Some(link) = look(&self.listener.interface) else { return };
        self.largest_block = largest_block(link.mtu);
        if link.index != self.listener.index {
            match listen(&self.listener.interface).and_then(|socket| {
                self.own.watch(&socket, LISTENER)?;
                Ok(Arc::new(socket))
            }) {
                Ok(socket) => {
                    // The old one leaves the epoll by being closed, once no request that came by it is waiting.
                    (self.listener.socket, self.listener.index) = (socket, link.index);
                    info!(interface = self.listener.interface, "interface came back: port 69 opened again");
                }
                Err(error) => warn!(interface = self.listener.interface, %error, "cannot open port 69 again"),
            }
        }
    }

    /// Takes what arrived on port 69.
    fn requests(&mut self, now: Instant) {
        let mut buffer = [0; LARGEST];
        // Others wait too: a flood of requests must not starve the transfers.
        for _ in 0..32 {
            match receive_request(&self.listener.socket, &mut buffer) {
                Ok(Some((length, peer, local))) => {
                    let asked = Asked {
                        bytes: buffer[..length].to_vec(),
                        peer,
                        local,
                        largest_block: self.largest_block,
                        socket: Arc::clone(&self.listener.socket),
                    };
                    let thread = self.clients.give(peer);
                    let Some(other) = thread.checked_sub(1).and_then(|n| self.others.get(n)) else {
                        self.own.request(now, &asked);
                        continue;
                    };
                    if !other.put(asked) {
                        // Lost, as in a full socket: clients ask again.
                        self.clients.take_back(peer);
                    }
                }
                Ok(None) => {}
                Err(Errno::EAGAIN) => return,
                Err(errno) => return debug!(%errno, "receiving on port 69 failed"),
            }
        }
    }
}

const LISTENER: u64 = 0;
const STOP: u64 = 1;
/// A request longer than Ethernet's MTU is none.
const LARGEST: usize = 1500;
