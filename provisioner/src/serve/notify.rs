//! What systemd is told (sd_notify(3)): one datagram to the socket it named; nothing without one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Notify {
    to: Option<SocketAddr>,
    /// Half of what systemd wants at least.
    pub watchdog: Option<Duration>,
}

impl Notify {
    pub fn from_env() -> Self {
        let named = std::env::var_os("NOTIFY_SOCKET");
        let to = named.and_then(|path| match path.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name).ok(),
            Some(_) => SocketAddr::from_pathname(path).ok(),
            None => None,
        });
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self { to, watchdog: micros.map(|micros: u64| Duration::from_micros(micros / 2)) }
    }

    /// Lines such as `READY=1`. A service manager that does not listen is not our trouble.
    pub fn tell(&self, lines: &str) {
        if let Some(to) = &self.to
            && let Ok(socket) = UnixDatagram::unbound()
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), to)
        {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}
