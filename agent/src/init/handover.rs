//! What PID 1 leaves for systemd and the node service: everything in `/run/muster`, and the network's unit.
//!
//! All of it lies in memory. What must survive is on the data partition already.

use super::machine::Machine;
use super::network::{Address, Port, port_to};
use crate::init::disks::Ours;
use crate::state::{Boot, BootedSlot};
use anyhow::Context;
use muster_protocol::ids::{Mac, NodeName};
use muster_protocol::manifest::Network;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// systemd-networkd reads it before the image's own units.
const NETWORK_UNIT: &str = "/run/systemd/network/10-muster.network";
const AGENT: &str = "/run/muster/bin/muster-agent";

/// Writes everything; called with `/run` still in its old place.
pub(super) fn write(machine: &Machine, slot: usize) -> anyhow::Result<()> {
    let ours = machine.ours.as_ref().context("no disk to boot from")?;
    let ports = machine.ports();
    let port = port_to(&ports, machine.provisioner.map(|at| at.ip()));
    let network = machine.manifest.as_ref().map(|manifest| &manifest.network);
    let address = port.and_then(|port| port.address.as_ref());

    put("/run/muster/boot", &boot_record(machine, ours, slot, port)?, 0o600)?;
    put("/run/muster/hosts", hosts(&ours.marker.node, address.map(|a| a.cidr.address)).as_bytes(), 0o644)?;
    put("/run/muster/resolv.conf", resolv(network, address).as_bytes(), 0o644)?;
    let seen: Vec<Mac> = ports.iter().filter(|port| port.carrier).map(|port| port.mac).collect();
    put(NETWORK_UNIT, network_unit(network, port.map(|port| port.mac), &seen).as_bytes(), 0o644)?;

    fs::create_dir_all(Path::new(AGENT).parent().unwrap_or(Path::new("/run")))?;
    fs::copy("/proc/self/exe", AGENT).context("copying the agent")?;
    fs::set_permissions(AGENT, fs::Permissions::from_mode(0o755)).context("making the agent executable")
}

fn put(path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

fn boot_record(machine: &Machine, ours: &Ours, slot: usize, port: Option<&Port>) -> anyhow::Result<Vec<u8>> {
    let address = port.and_then(|port| port.address.as_ref());
    let booted = ours.marker.slots.get(slot).and_then(Option::as_ref).context("an empty slot was chosen")?;
    let boot = Boot {
        boot: machine.boot,
        stages: machine.timeline.stages().to_vec(),
        interface: port.map(|port| port.name.clone()),
        mac: port.map(|port| port.mac),
        address: address.map(|address| address.cidr),
        gateway: address.and_then(|address| address.gateway),
        dns: address.map(|address| address.dns.clone()).unwrap_or_default(),
        provisioner: machine.provisioner,
        http_port: machine.http_port,
        detected: machine.class(),
        order: Some(ours.marker.order),
        slot: Some(BootedSlot { disk: ours.disk(), index: slot, image: booted.image }),
        kernel_release: machine.kernel.clone(),
    };
    serde_json::to_vec_pretty(&boot).context("writing down this boot")
}

/// Enough for systemd and the first seconds; the node service keeps it from then on.
fn hosts(node: &NodeName, address: Option<Ipv4Addr>) -> String {
    // Debian's way where there is no address: a name must resolve to itself.
    let own = address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1));
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{own} {node}\n")
}

/// The declared name servers, else those of the lease.
fn resolv(declared: Option<&Network>, address: Option<&Address>) -> String {
    let declared = declared.map(|network| network.dns.as_slice()).filter(|dns| !dns.is_empty());
    let dns = declared.or(address.map(|address| address.dns.as_slice())).unwrap_or_default();
    // glibc reads three.
    dns.iter().take(3).fold(String::new(), |text, server| text + &format!("nameserver {server}\n"))
}

/// The unit with which networkd takes the link over: the same address, the same lease.
fn network_unit(declared: Option<&Network>, used: Option<Mac>, linked: &[Mac]) -> String {
    let fixed = declared.and_then(|network| Some((network, network.address?)));
    let macs: Vec<Mac> = match fixed {
        // One address, one port: the declared one that has a link.
        Some((network, _)) => {
            let linked = network.macs.iter().find(|mac| linked.contains(mac));
            linked.or(network.macs.first()).copied().into_iter().collect()
        }
        None => {
            let declared = declared.map(|network| network.macs.clone()).unwrap_or_default();
            let more: Vec<Mac> = used.into_iter().filter(|mac| !declared.contains(mac)).collect();
            declared.into_iter().chain(more).collect()
        }
    };
    let list: Vec<String> = macs.iter().map(Mac::to_string).collect();
    let mut unit = String::from("# Written by the agent at each boot.\n[Match]\n");
    // Writing to a String has no error path.
    let _ok = match list.is_empty() {
        true => writeln!(unit, "Type=ether"),
        false => writeln!(unit, "MACAddress={}", list.join(" ")),
    };
    unit.push_str("\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n");
    match fixed {
        Some((network, address)) => {
            unit.push_str(&format!("Address={address}\n"));
            let gateway = network.gateway.iter().map(|gateway| format!("Gateway={gateway}\n"));
            let dns = network.dns.iter().map(|dns| format!("DNS={dns}\n"));
            let ntp = network.ntp.iter().map(|ntp| format!("NTP={ntp}\n"));
            unit.extend(gateway.chain(dns).chain(ntp));
        }
        // The client id that PID 1's own client uses, so that the lease stays the same; no name from strangers.
        None => unit.push_str("DHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=no\n"),
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn declared(address: Option<&str>) -> Network {
        Network {
            macs: vec![A, B],
            address: address.map(|cidr| cidr.parse().unwrap()),
            gateway: Some(Ipv4Addr::new(10, 77, 0, 1)),
            dns: vec![Ipv4Addr::new(10, 77, 0, 1)],
            ntp: vec![],
        }
    }

    #[test]
    fn a_declared_address_goes_to_one_port() {
        let unit = network_unit(Some(&declared(Some("10.77.0.11/24"))), Some(B), &[B]);
        assert!(unit.contains("MACAddress=02:00:00:00:00:02\n"), "{unit}");
        assert!(unit.contains("Address=10.77.0.11/24\nGateway=10.77.0.1\nDNS=10.77.0.1\n"), "{unit}");
        assert!(!unit.contains("DHCP="), "{unit}");
    }

    #[test]
    fn a_lease_is_kept_by_the_same_client_id() {
        let unit = network_unit(Some(&declared(None)), Some(A), &[A]);
        assert!(unit.contains("MACAddress=02:00:00:00:00:01 02:00:00:00:00:02\n"), "{unit}");
        assert!(unit.contains("DHCP=ipv4\n") && unit.contains("ClientIdentifier=mac\n"), "{unit}");
        assert!(network_unit(None, None, &[]).contains("Type=ether\n"));
    }

    #[test]
    fn declared_name_servers_go_before_the_leases() {
        let lease = Address {
            cidr: "10.77.0.101/24".parse().unwrap(),
            gateway: None,
            dns: vec![Ipv4Addr::new(192, 168, 1, 1)],
            ntp: vec![],
        };
        assert_eq!(resolv(Some(&declared(None)), Some(&lease)), "nameserver 10.77.0.1\n");
        assert_eq!(resolv(None, Some(&lease)), "nameserver 192.168.1.1\n");
        assert_eq!(resolv(None, None), "");
    }

    #[test]
    fn a_name_resolves_to_itself_without_an_address() {
        assert!(hosts(&"mini-pc-1".parse().unwrap(), None).contains("127.0.1.1 mini-pc-1\n"));
    }
}
