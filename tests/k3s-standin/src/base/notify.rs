//! sd_notify: one datagram to the socket that the service manager names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// READY=1, if anybody wants to know.
pub fn ready() {
    let Ok(to) = std::env::var("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(&to, b"READY=1\n") {
        crate::base::log::warn(&format!("Failed to notify {to}: {e}"));
    }
}

fn send(to: &str, datagram: &[u8]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    match to.strip_prefix('@') {
        Some(name) => socket.send_to_addr(datagram, &SocketAddr::from_abstract_name(name)?)?,
        None => socket.send_to(datagram, to)?,
    };
    Ok(())
}
