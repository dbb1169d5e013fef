//! Boot files and artifacts over HTTP/1.1 on port 80: published names only, nothing secret, no redirect, no chunks.
//!
//! Small on purpose: one method twice (GET, HEAD), a head of 16 KiB at most, bodies by sendfile(2). A connection that
//! dawdles makes room for one that does not.

/// One connection.
mod connection;
/// A head, read.
pub mod request;
/// What is answered.
pub mod response;

use super::link::{LOOK, look};
use crate::boot::{event::BootEvent, published::Published};
use connection::{Served, serve};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc::UnboundedSender},
    task::JoinSet,
    time::interval,
};
use tracing::{debug, info, warn};

/// Port 80, opened while the process may.
#[derive(Debug)]
pub struct Listener {
    interface: String,
    index: u32,
    socket: TcpListener,
}

/// Opens port 80 on `interface`; must run inside a tokio runtime.
pub fn open(interface: &str) -> io::Result<Listener> {
    let index = look(interface).map_or(0, |link| link.index);
    Ok(Listener { interface: interface.into(), index, socket: listen(interface)? })
}

/// Serves for ever; dropping the future ends all connections.
pub async fn run(
    mut listener: Listener,
    published: Published,
    events: UnboundedSender<BootEvent>,
) -> io::Result<()> {
    let idle = Arc::new(Idle::default());
    let mut connections = JoinSet::new();
    let mut looks = interval(LOOK);
    for key in 0u64.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.socket.accept(), if connections.len() < MOST => break accepted,
                Some(_) = connections.join_next() => {}
                _ = looks.tick() => {
                    listener = refresh(listener);
                    if connections.len() >= MOST {
                        idle.send_longest_home();
                    }
                }
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                if connections.len() + 1 >= MOST {
                    idle.send_longest_home();
                }
                let served =
                    Served { published: published.clone(), events: events.clone(), idle: Arc::clone(&idle) };
                connections.spawn(async move {
                    if let Err(error) = serve(stream, peer, served, key).await {
                        debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "accepting failed");
                // Out of descriptors, or the interface is down: not in a circle.
                looks.tick().await;
                listener = refresh(listener);
            }
        }
    }
    Ok(())
}

/// Connections that wait for a request, the longest waiting first.
#[derive(Debug, Default)]
struct Idle(Mutex<BTreeMap<u64, Arc<Notify>>>);

impl Idle {
    fn enter(&self, key: u64, notify: &Arc<Notify>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(notify));
    }

    fn leave(&self, key: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn send_longest_home(&self) {
        if let Some((_, notify)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_first() {
            notify.notify_one();
        }
    }
}

fn refresh(mut listener: Listener) -> Listener {
    let Some(link) = look(&listener.interface) else { return listener };
    if link.index != listener.index {
        match listen(&listener.interface) {
            Ok(socket) => {
                (listener.socket, listener.index) = (socket, link.index);
                info!(interface = listener.interface, "interface came back: port 80 opened again");
            }
            Err(error) => warn!(interface = listener.interface, %error, "cannot open port 80 again"),
        }
    }
    listener
}

fn listen(interface: &str) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // Connections of a former run that linger must not keep the port from us.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80).into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Connections at a time; with those of TFTP below the usual 1024 descriptors.
const MOST: usize = 384;
