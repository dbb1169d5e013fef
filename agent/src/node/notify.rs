//! systemd's notification protocol, as far as it is needed: one datagram of `KEY=value` lines (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells whoever supervises us; without a supervisor nothing happens.
pub fn notify(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(text.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::debug!(%error, "cannot notify the supervisor");
    }
}
