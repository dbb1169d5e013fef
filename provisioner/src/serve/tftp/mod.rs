//! A TFTP server for published names, read only (RFC 1350, 2347, 2348, 2349, 7440).
//!
//! The door takes requests on port 69; workers, one on the door's thread and one for each further core, send the files.
//! Each has its own epoll: in lockstep each block costs a wake-up, and there a runtime between the kernel and the answer
//! would be felt. All transfers of a client's port are one worker's, so no packet waits for a lock. Each transfer has a socket with a port of its own, as RFC 1350
//! wants: a late packet of one transfer cannot hit the next, and who forges a request does not know where to send the
//! acknowledgements that would make it a stream.

/// Sending a window.
mod batch;
/// Whose client is whose.
mod clients;
/// Timers.
mod deadlines;
/// Port 69.
mod door;
/// From the door to a worker.
mod inbox;
/// A file's pages.
mod mapped;
/// Bytes to requests and back.
pub mod packet;
/// What comes in on port 69.
mod receive;
/// How long to wait.
pub mod roundtrip;
/// Block size and window.
pub mod terms;
/// How a transfer ended.
mod told;
/// One file to one client.
pub mod transfer;
/// A thread's transfers.
mod worker;

use self::{clients::Clients, door::Door, worker::Worker};
use super::link::look;
use crate::boot::{event::BootEvent, published::Published};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{io, net::UdpSocket, num::NonZeroUsize, sync::Arc, thread};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

/// The socket on port 69, opened while the process may.
#[derive(Debug)]
pub struct Listener {
    interface: String,
    index: u32,
    socket: Arc<UdpSocket>,
}

/// Opens port 69 on `interface`.
pub fn open(interface: &str) -> io::Result<Listener> {
    let index = look(interface).map_or(0, |link| link.index);
    Ok(Listener { interface: interface.into(), index, socket: Arc::new(receive::listen(interface)?) })
}

/// Serves for ever; dropping the future ends the threads.
pub async fn run(
    listener: Listener,
    published: Published,
    events: UnboundedSender<BootEvent>,
) -> io::Result<()> {
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let (ended, end) = oneshot::channel();
    let stopped = Arc::clone(&stop);
    let thread = thread::Builder::new().name("tftp".into()).spawn(move || {
        // Nobody listens any more when the future was dropped.
        let _ = ended.send(serve(listener, &published, &events, &stopped));
    })?;
    let _guard = Guard { stop, thread: Some(thread) };
    end.await.unwrap_or_else(|_| Err(io::Error::other("the TFTP thread ended without a word")))
}

/// The door on this thread, more workers on theirs; all end when one does.
fn serve(
    listener: Listener,
    published: &Published,
    events: &UnboundedSender<BootEvent>,
    stop: &EventFd,
) -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
    let clients = Clients::default();
    let interface = listener.interface.clone();
    let worker = || {
        let (published, events, mine) = (published.clone(), events.clone(), clients.part());
        Worker::new(interface.clone(), published, events, mine, MOST_SESSIONS / count)
    };
    let own = worker()?;
    thread::scope(|scope| {
        let (mut posts, mut others) = (Vec::new(), Vec::new());
        for n in 1..count {
            let (post, inbox) = inbox::inbox()?;
            posts.push(post);
            let (worker, over) = (worker()?, Over(stop));
            let work = move || {
                let _over = over;
                worker.run(&inbox)
            };
            others.push(thread::Builder::new().name(format!("tftp-{n}")).spawn_scoped(scope, work)?);
        }
        let ended = Door::new(listener, clients.clone(), own, posts).run(stop);
        others.into_iter().fold(ended, |ended, other| {
            ended.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a TFTP thread panicked"))))
        })
    })
}

/// A thread that is over, however it came to that: the door must not go on without it.
struct Over<'a>(&'a EventFd);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

/// Ends the threads and waits for them.
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

/// More would wait for the wire.
const MOST_THREADS: usize = 4;
/// Descriptors, mostly: the usual limit of a process is 1024.
const MOST_SESSIONS: usize = 512;
