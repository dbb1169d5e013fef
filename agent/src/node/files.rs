//! Small files of the system that follow from the manifest: hosts, resolv.conf, SSH keys.

use crate::node::gate::config::registration;
use crate::state::{Root, StateError};
use muster_protocol::ids::Role;
use muster_protocol::manifest::{Manifest, Registration};
use std::fmt::Write;
use std::net::Ipv4Addr;

const HOSTS: &str = "/run/muster/hosts";
const RESOLV: &str = "/run/muster/resolv.conf";
const AUTHORIZED_KEYS: &str = "/var/lib/muster/ssh/authorized_keys";

/// Writes what differs. `own` is the address that this node has now.
pub fn write(root: &Root, manifest: &Manifest, own: Option<Ipv4Addr>) -> Result<(), StateError> {
    root.write_if_other(HOSTS, hosts(manifest, own).as_bytes(), 0o644)?;
    // With DHCP, what PID 1 wrote from its lease stays.
    if !manifest.network.dns.is_empty() || !root.exists(RESOLV) {
        root.write_if_other(RESOLV, resolv(&manifest.network.dns).as_bytes(), 0o644)?;
    }
    root.write_if_other(AUTHORIZED_KEYS, authorized_keys(manifest).as_bytes(), 0o600)?;
    Ok(())
}

fn hosts(manifest: &Manifest, own: Option<Ipv4Addr>) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    let mut line = |address: Ipv4Addr, name: &str| {
        // Writing to a String has no error path.
        let _ok = writeln!(text, "{address} {name}");
    };
    let declared = |name: &_| manifest.k3s.servers.iter().any(|(server, _)| server == name);
    if !declared(&manifest.node) {
        // Debian's way for a name without a fixed address.
        line(own.unwrap_or(Ipv4Addr::new(127, 0, 1, 1)), manifest.node.as_str());
    }
    for (name, address) in &manifest.k3s.servers {
        line(*address, name.as_str());
    }
    if manifest.k3s.registration == Registration::Hosts {
        let name = registration(manifest);
        for (server, address) in &manifest.k3s.servers {
            // A refused connection makes Go try the next address: on a server its own must not be among them, or a
            // joiner could reach itself (facts: k3s §13).
            if !(manifest.role == Role::Server && *server == manifest.node) {
                line(*address, &name);
            }
        }
    }
    text
}

fn resolv(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

/// A key with a line break in it would be two; such a thing is left out.
fn authorized_keys(manifest: &Manifest) -> String {
    let one_line = |key: &&String| !key.chars().any(char::is_control);
    manifest.authorized_keys.iter().filter(one_line).map(|key| format!("{key}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Cluster, scratch};

    #[test]
    fn a_worker_finds_all_servers_by_one_name() {
        let expected = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 mini-pc-4\n\
            10.99.0.11 mini-pc-1\n10.99.0.12 mini-pc-2\n10.99.0.13 mini-pc-3\n\
            10.99.0.11 k3s.sharpi.muster\n10.99.0.12 k3s.sharpi.muster\n10.99.0.13 k3s.sharpi.muster\n";
        assert_eq!(hosts(&Cluster::new().manifest(4), None), expected);
    }

    #[test]
    fn on_a_server_the_name_never_contains_its_own_address() {
        let text = hosts(&Cluster::new().manifest(2), Some(Cluster::address(2)));
        assert!(text.contains("10.99.0.12 mini-pc-2\n"));
        assert!(!text.contains("10.99.0.12 k3s.sharpi.muster"), "{text}");
        assert_eq!(text.matches("k3s.sharpi.muster").count(), 2);
    }

    #[test]
    fn a_dhcp_lease_s_name_servers_stay_and_keys_are_one_a_line() {
        let root = scratch();
        let mut manifest = Cluster::new().manifest(4);
        manifest.authorized_keys = vec!["ssh-ed25519 AAAA a".into(), "x\nroot".into()];
        root.write(RESOLV, b"nameserver 10.0.0.1\n", 0o644).unwrap();
        write(&root, &manifest, None).unwrap();
        assert_eq!(root.read(RESOLV).unwrap().unwrap(), b"nameserver 10.0.0.1\n");
        assert_eq!(root.read(AUTHORIZED_KEYS).unwrap().unwrap(), b"ssh-ed25519 AAAA a\n");
        manifest.network.dns = vec![Ipv4Addr::new(10, 0, 0, 2)];
        write(&root, &manifest, None).unwrap();
        assert_eq!(root.read(RESOLV).unwrap().unwrap(), b"nameserver 10.0.0.2\n");
    }
}
