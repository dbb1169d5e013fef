//! Which thread has which client: a repeated request has to find its transfer, a new one the thread with the least to do.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Client ports with a request or a transfer under way, and whose they are. Asked once for each request, told of each end.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    whose: HashMap<SocketAddrV4, usize>,
    counts: Vec<usize>,
}

/// One thread's part.
#[derive(Debug)]
pub(super) struct Mine {
    clients: Clients,
    thread: usize,
}

impl Clients {
    /// The next thread's part; threads count from 0.
    pub(super) fn part(&self) -> Mine {
        let mut known = self.known();
        known.counts.push(0);
        Mine { clients: self.clone(), thread: known.counts.len() - 1 }
    }

    /// Gives this client to a thread: to the one that has it, else to the first of those with the fewest.
    pub(super) fn give(&self, peer: SocketAddrV4) -> usize {
        let mut known = self.known();
        let least = known.counts.iter().enumerate().min_by_key(|(_, count)| **count);
        let thread = known.whose.get(&peer).copied().or(least.map(|(thread, _)| thread)).unwrap_or(0);
        known.add(peer, thread);
        thread
    }

    /// It was not handed over after all.
    pub(super) fn take_back(&self, peer: SocketAddrV4) {
        self.known().remove(peer);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mine {
    pub(super) fn has(&self, peer: SocketAddrV4) {
        self.clients.known().add(peer, self.thread);
    }

    pub(super) fn is_done_with(&self, peer: SocketAddrV4) {
        self.clients.known().remove(peer);
    }
}

impl Known {
    fn add(&mut self, peer: SocketAddrV4, thread: usize) {
        if self.whose.insert(peer, thread).is_none()
            && let Some(count) = self.counts.get_mut(thread)
        {
            *count += 1;
        }
    }

    fn remove(&mut self, peer: SocketAddrV4) {
        if let Some(count) = self.whose.remove(&peer).and_then(|thread| self.counts.get_mut(thread)) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_client_stays_with_its_thread_and_new_ones_go_where_least_is_to_do() {
        let clients = Clients::default();
        let parts: Vec<Mine> = (0..3).map(|_| clients.part()).collect();
        let peer = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        // Also before any of them was heard: they come in bursts.
        for port in (0..9).chain(0..9) {
            assert_eq!(clients.give(peer(port)), usize::from(port) % 3);
        }
        parts[2].has(peer(5));
        for _ in 0..2 {
            parts[1].is_done_with(peer(4));
        }
        assert_eq!(clients.give(peer(99)), 1);
        assert_eq!(clients.give(peer(4)), 0, "it had left, and all had the same");
        clients.take_back(peer(99));
        assert_eq!(clients.give(peer(98)), 1);
    }
}
