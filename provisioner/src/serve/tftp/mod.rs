//! A TFTP server for published names, read only (RFC 1350, 2347, 2348, 2349, 7440).
//!
//! One thread with its own epoll serves all transfers: in lockstep each block costs a wake-up, and there a runtime
//! between the kernel and the answer would be felt. Each transfer has a socket with a port of its own, as RFC 1350
//! wants: a late packet of one transfer cannot hit the next, and who forges a request does not know where to send the
//! acknowledgements that would make it a stream.

/// Sending a window.
mod batch;
/// Timers.
mod deadlines;
/// A file's pages.
mod mapped;
/// Bytes to requests and back.
pub mod packet;
/// What comes in on port 69.
mod receive;
/// How long to wait.
pub mod roundtrip;
/// The thread: sockets to machines and back.
mod server;
/// Block size and window.
pub mod terms;
/// How a transfer ended.
mod told;
/// One file to one client.
pub mod transfer;

use super::link::look;
use crate::boot::{event::BootEvent, published::Published};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{io, net::UdpSocket, sync::Arc, thread};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

/// The socket on port 69, opened while the process may.
#[derive(Debug)]
pub struct Listener {
    interface: String,
    index: u32,
    socket: UdpSocket,
}

/// Opens port 69 on `interface`.
pub fn open(interface: &str) -> io::Result<Listener> {
    let index = look(interface).map_or(0, |link| link.index);
    Ok(Listener { interface: interface.into(), index, socket: receive::listen(interface)? })
}

/// Serves for ever; dropping the future ends the thread.
pub async fn run(
    listener: Listener,
    published: Published,
    events: UnboundedSender<BootEvent>,
) -> io::Result<()> {
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let server = server::Server::new(listener, published, events, Arc::clone(&stop))?;
    let (ended, end) = oneshot::channel();
    let thread = thread::Builder::new().name("tftp".into()).spawn(move || {
        // Nobody listens any more when the future was dropped.
        let _ = ended.send(server.run());
    })?;
    let _guard = Guard { stop, thread: Some(thread) };
    end.await.unwrap_or_else(|_| Err(io::Error::other("the TFTP thread ended without a word")))
}

/// Ends the thread and waits for it.
struct Guard {
    stop: Arc<EventFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let (Ok(_), Some(thread)) = (self.stop.write(1), self.thread.take()) {
            // A panic there was reported by the channel.
            let _ = thread.join();
        }
    }
}
