//! From the door to a worker: requests, and the word that no more will come.

use super::packet::{Fault, error};
use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    socket::{MsgFlags, SockaddrIn, sendto},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
};
use tracing::debug;

/// What arrived on port 69.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) bytes: Vec<u8>,
    pub(super) peer: SocketAddrV4,
    /// The address of ours that was asked; the answer has to come from it.
    pub(super) local: Ipv4Addr,
    /// What fits the interface.
    pub(super) largest_block: u16,
    /// Port 69 itself, for a refusal.
    pub(super) socket: Arc<UdpSocket>,
}

impl Asked {
    pub(super) fn refuse(&self, fault: Fault, text: &str) {
        let bytes = error(fault, text);
        // Lost or not sent, the client asks again.
        let _ = sendto(self.socket.as_raw_fd(), &bytes, &SockaddrIn::from(self.peer), MsgFlags::MSG_DONTWAIT);
    }
}

/// Where the door hands in; dropped, it ends the worker.
#[derive(Debug)]
pub(super) struct Post {
    sender: Option<SyncSender<Asked>>,
    bell: Arc<EventFd>,
}

/// Where the worker takes out; readable as long as something is in it.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: Receiver<Asked>,
    bell: Arc<EventFd>,
}

pub(super) fn inbox() -> io::Result<(Post, Inbox)> {
    // As a semaphore: each reading takes one ring, so that the inbox is readable once for each letter.
    let flags = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let (sender, receiver) = sync_channel(ROOM);
    Ok((Post { sender: Some(sender), bell: Arc::clone(&bell) }, Inbox { receiver, bell }))
}

impl Post {
    /// Hands a request in; whether there was room.
    pub(super) fn put(&self, asked: Asked) -> bool {
        match self.sender.as_ref().map(|sender| sender.try_send(asked)) {
            Some(Ok(())) => {
                self.ring();
                true
            }
            Some(Err(TrySendError::Full(asked))) => {
                debug!(peer = %asked.peer, "too many requests at once");
                false
            }
            // The worker has ended; who started it knows.
            Some(Err(TrySendError::Disconnected(_))) | None => false,
        }
    }

    fn ring(&self) {
        // Fails where 2^64 rings were not answered.
        let _ = self.bell.write(1);
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        // In this order: who hears the last ring finds nobody at the other end.
        self.sender = None;
        self.ring();
    }
}

impl Inbox {
    /// The next request; `Break` once the door is gone and nothing is left.
    pub(super) fn take(&self) -> ControlFlow<(), Option<Asked>> {
        // Fails where nobody rang, and then nothing is there.
        let _ = self.bell.read();
        match self.receiver.try_recv() {
            Ok(asked) => ControlFlow::Continue(Some(asked)),
            Err(TryRecvError::Empty) => ControlFlow::Continue(None),
            Err(TryRecvError::Disconnected) => ControlFlow::Break(()),
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Requests that wait for one worker.
const ROOM: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn asked(port: u16) -> Asked {
        Asked {
            bytes: Vec::new(),
            peer: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            local: Ipv4Addr::LOCALHOST,
            largest_block: 512,
            socket: Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()),
        }
    }

    fn readable(inbox: &Inbox) -> bool {
        poll(&mut [PollFd::new(inbox.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    fn taken(inbox: &Inbox) -> Option<u16> {
        match inbox.take() {
            ControlFlow::Continue(asked) => asked.map(|asked| asked.peer.port()),
            ControlFlow::Break(()) => panic!("the door is still there"),
        }
    }

    #[test]
    fn it_is_readable_once_for_each_request() {
        let (post, inbox) = inbox().unwrap();
        assert!(!readable(&inbox));
        assert!(post.put(asked(1)) && post.put(asked(2)));
        assert!(readable(&inbox));
        assert_eq!(taken(&inbox), Some(1));
        assert!(readable(&inbox));
        assert_eq!(taken(&inbox), Some(2));
        assert!(!readable(&inbox));
        assert_eq!(taken(&inbox), None);
    }

    #[test]
    fn a_full_one_loses_the_newest_and_holds_nobody_up() {
        let (post, inbox) = inbox().unwrap();
        let most = u16::try_from(ROOM).unwrap();
        for port in 1..=most + 10 {
            assert_eq!(post.put(asked(port)), port <= most);
        }
        for port in 1..=most {
            assert_eq!(taken(&inbox), Some(port));
        }
        assert!(taken(&inbox).is_none() && !readable(&inbox));
    }

    #[test]
    fn what_was_handed_in_is_taken_out_before_the_end() {
        let (post, inbox) = inbox().unwrap();
        assert!(post.put(asked(1)));
        drop(post);
        assert!(readable(&inbox));
        assert_eq!(taken(&inbox), Some(1));
        assert!(readable(&inbox));
        assert!(inbox.take().is_break());
    }
}
