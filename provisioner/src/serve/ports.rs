//! Who holds a port: for the message when one of ours is taken.

use std::fs;
use std::io;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
}

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("port {port}/{} is taken by {holder}\nhint: stop that program, or let it leave this interface to muster", kind.word())]
    Taken { kind: Kind, port: u16, holder: String },
    #[error("port {port}/{} may not be opened by this user\nhint: run as root; rights are given up once the ports are open", kind.word())]
    NotAllowed { kind: Kind, port: u16 },
    #[error("cannot open port {port}/{}", kind.word())]
    Failed { kind: Kind, port: u16, source: io::Error },
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Says what went wrong with opening a port, as far as it can be found out.
pub fn explain(kind: Kind, port: u16, source: io::Error) -> PortError {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = holder(Path::new("/proc"), kind, port);
            PortError::Taken { kind, port, holder: holder.unwrap_or_else(|| "another program".into()) }
        }
        io::ErrorKind::PermissionDenied => PortError::NotAllowed { kind, port },
        _ => PortError::Failed { kind, port, source },
    }
}

/// `dnsmasq (process 812)`, from the tables below `proc`.
fn holder(proc: &Path, kind: Kind, port: u16) -> Option<String> {
    let tables = [kind.word().to_string(), format!("{}6", kind.word())];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(proc.join("net").join(table)).ok())
        .flat_map(|text| inodes(&text, kind, port))
        .collect();
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let sockets = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let mut links = sockets.filter_map(|fd| fs::read_link(fd.path()).ok());
        links.find(|link| inodes.iter().any(|inode| link.to_str() == Some(&format!("socket:[{inode}]"))))?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some(format!("`{}` (process {pid})", name.trim()))
    })
}

/// Inodes of sockets on this local port: for TCP the listening ones (state 0A).
fn inodes(table: &str, kind: Kind, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&wanted)))
        .filter(|fields| kind == Kind::Udp || fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9).map(ToString::to_string))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listener_is_found_by_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holder(Path::new("/proc"), Kind::Tcp, port).unwrap();
        assert!(found.contains(&format!("process {}", std::process::id())), "{found}");
        let again = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        let text = explain(Kind::Tcp, port, again).to_string();
        assert!(text.contains("is taken by"), "{text}");
    }
}
