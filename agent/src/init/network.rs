//! Every port with a link gets an address: from DHCP, or the declared one of an installed node.

use crate::detect::nics;
use crate::net::dhcp::{self, Event};
use crate::net::find::Beacons;
use crate::net::link::Links;
use anyhow::Context;
use muster_protocol::ids::{Cidr, Mac};
use muster_protocol::inventory::Nic;
use muster_protocol::manifest;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior};

/// How a port is set up, once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub cidr: Cidr,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
}

/// One Ethernet port as the rest of PID 1 sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub name: String,
    pub mac: Mac,
    pub carrier: bool,
    pub address: Option<Address>,
}

/// How a port is to get its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Dhcp,
    Static,
    Leave,
}

/// The port that leads to `to`: the one on the same link, else the first that has an address, else the first with a
/// link.
pub(super) fn port_to(ports: &[Port], to: Option<IpAddr>) -> Option<&Port> {
    let leads = |port: &&Port| match (&port.address, to) {
        (Some(address), Some(IpAddr::V4(to))) => address.cidr.contains(to),
        (Some(_) | None, Some(_) | None) => false,
    };
    let mut ranked = [ports.iter().find(leads), ports.iter().find(|port| port.address.is_some())].into_iter();
    ranked.find_map(|port| port).or_else(|| ports.iter().find(|port| port.carrier)).or_else(|| ports.first())
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setup {
    /// Not known yet: links only. They take seconds to come up, which is the time in which disks are looked at.
    Links,
    Dhcp,
    /// An installed node's own, from its manifest.
    Declared(manifest::Network),
}

impl Setup {
    pub(super) fn of(manifest: Option<&manifest::Manifest>) -> Self {
        match manifest.map(|manifest| &manifest.network).filter(|network| network.address.is_some()) {
            Some(network) => Self::Declared(network.clone()),
            None => Self::Dhcp,
        }
    }
}

/// What each port does. A declared address goes to one port: the first declared one with a link. Where none of the
/// declared ports is there (the card was replaced), all ask DHCP, so that the machine can still be reached.
fn plan(nics: &[Nic], setup: &Setup) -> Vec<How> {
    let ask = |nic: &Nic| if nic.carrier { How::Dhcp } else { How::Leave };
    let declared = match setup {
        Setup::Links => return vec![How::Leave; nics.len()],
        Setup::Dhcp => return nics.iter().map(ask).collect(),
        Setup::Declared(network) => network,
    };
    let named = |nic: &Nic| declared.macs.contains(&nic.mac);
    if !nics.iter().any(named) {
        return nics.iter().map(ask).collect();
    }
    let chosen =
        declared.macs.iter().find_map(|mac| nics.iter().position(|nic| nic.mac == *mac && nic.carrier));
    (0..nics.len()).map(|at| if Some(at) == chosen { How::Static } else { How::Leave }).collect()
}

/// The network of a boot; dropping it stops its task and leaves addresses as they are.
pub(super) struct Net {
    pub ports: watch::Receiver<Vec<Port>>,
    pub setup: watch::Sender<Setup>,
    pub beacons: Beacons,
    task: JoinHandle<()>,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Net {
    /// Brings links up and waits to be told more. Needs a running tokio.
    pub(super) fn start(luck: u32) -> anyhow::Result<Self> {
        let beacons = Beacons::listen(Ipv4Addr::UNSPECIFIED).context("listening for the provisioner")?;
        let links = Links::open()?;
        let (tell, ports) = watch::channel(Vec::new());
        let (setup, wanted) = watch::channel(Setup::Links);
        let task = tokio::spawn(keep(links, wanted, luck, tell));
        Ok(Self { ports, setup, beacons, task })
    }
}

/// How often ports are looked at: a cable that is plugged in is noticed within this time.
const LOOK: Duration = Duration::from_millis(250);

/// A client whose socket broke (the driver was reset) is started again after this long.
const AGAIN: Duration = Duration::from_secs(5);

struct Live {
    interface: u32,
    since: Instant,
    how: How,
    client: Option<JoinHandle<()>>,
    port: Port,
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.abort();
        }
    }
}

async fn keep(links: Links, mut wanted: watch::Receiver<Setup>, luck: u32, tell: watch::Sender<Vec<Port>>) {
    let mut live: BTreeMap<Mac, Live> = BTreeMap::new();
    let (events, mut heard) = mpsc::channel(16);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if let Ok(lo) = nix::net::if_::if_nametoindex("lo")
        && let Err(error) = links.up(lo).await
    {
        tracing::warn!(%error, "loopback stays down");
    }
    loop {
        tokio::select! {
            Ok(()) = wanted.changed() => look.reset_immediately(),
            _ = look.tick() => {
                let nics = nics::read(Path::new("/"));
                let setup = wanted.borrow().clone();
                let plan = plan(&nics, &setup);
                live.retain(|mac, _| nics.iter().any(|nic| nic.mac == *mac));
                for (nic, how) in nics.into_iter().zip(plan) {
                    let declared = declared_address(&setup);
                    if let Err(error) = follow(&links, &mut live, nic, how, declared, luck, &events).await {
                        tracing::warn!(error = format!("{error:#}"), "a port cannot be set up");
                    }
                }
            }
            Some((interface, event)) = heard.recv() => {
                if let Err(error) = apply(&links, &mut live, interface, event).await {
                    tracing::warn!(error = format!("{error:#}"), "a lease cannot be used");
                }
            }
        }
        let now: Vec<Port> = live.values().map(|live| live.port.clone()).collect();
        tell.send_if_modified(|ports| std::mem::replace(ports, now.clone()) != now);
    }
}

fn declared_address(setup: &Setup) -> Option<Address> {
    let network = match setup {
        Setup::Declared(network) => network,
        Setup::Links | Setup::Dhcp => return None,
    };
    let (dns, ntp) = (network.dns.clone(), network.ntp.clone());
    network.address.map(|cidr| Address { cidr, gateway: network.gateway, dns, ntp })
}

/// Brings one port from what it does to what it should do.
async fn follow(
    links: &Links,
    live: &mut BTreeMap<Mac, Live>,
    nic: Nic,
    how: How,
    declared: Option<Address>,
    luck: u32,
    events: &mpsc::Sender<(u32, Event)>,
) -> anyhow::Result<()> {
    let live = match live.entry(nic.mac) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let interface =
                nix::net::if_::if_nametoindex(nic.name.as_str()).context("looking up an interface")?;
            // Before it is up, a port does not know whether it has a link.
            links.up(interface).await?;
            let port = Port { name: nic.name.clone(), mac: nic.mac, carrier: false, address: None };
            new.insert(Live { interface, since: Instant::now(), how: How::Leave, client: None, port })
        }
    };
    if nic.carrier != live.port.carrier {
        tracing::info!(port = nic.name, mac = %nic.mac, link = nic.carrier, "link");
        live.port.carrier = nic.carrier;
    }
    let stopped = live.client.as_ref().is_some_and(|client| client.is_finished());
    if how == live.how && !(stopped && live.since.elapsed() >= AGAIN) {
        return Ok(());
    }
    live.since = Instant::now();
    live.how = how;
    if let Some(client) = live.client.take() {
        client.abort();
    }
    match how {
        How::Leave => {
            if live.port.address.take().is_some() {
                links.clear(live.interface, None).await?;
            }
        }
        How::Dhcp => {
            let (interface, mac, events) = (live.interface, nic.mac, events.clone());
            let luck = luck ^ u32::from_le_bytes([mac.0[2], mac.0[3], mac.0[4], mac.0[5]]);
            live.client = Some(tokio::spawn(async move {
                if let Err(error) = dhcp::run(interface, mac, luck, events).await {
                    tracing::warn!(%mac, %error, "the DHCP client of a port stopped");
                }
            }));
        }
        How::Static => {
            let Some(address) = declared else { return Ok(()) };
            links.configure(live.interface, address.cidr, address.gateway, metric(live.interface)).await?;
            tracing::info!(port = nic.name, address = %address.cidr, "declared address set");
            live.port.address = Some(address);
        }
    }
    Ok(())
}

async fn apply(
    links: &Links,
    live: &mut BTreeMap<Mac, Live>,
    interface: u32,
    event: Event,
) -> anyhow::Result<()> {
    let Some(live) = live.values_mut().find(|live| live.interface == interface && live.how == How::Dhcp)
    else {
        return Ok(());
    };
    match event {
        Event::Bound(lease) => {
            let cidr = Cidr { address: lease.address, prefix: lease.prefix };
            let gateway = lease.routers.first().copied();
            links.configure(interface, cidr, gateway, metric(interface)).await?;
            tracing::info!(port = live.port.name, address = %cidr, server = %lease.server, "lease");
            live.port.address = Some(Address { cidr, gateway, dns: lease.dns, ntp: lease.ntp });
        }
        Event::Lost => {
            tracing::warn!(port = live.port.name, "the lease is lost");
            live.port.address = None;
            links.clear(interface, None).await?;
        }
    }
    Ok(())
}

/// Several default routes need several metrics; the first port wins.
fn metric(interface: u32) -> u32 {
    1024 + interface
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(last: u8, carrier: bool) -> Nic {
        Nic {
            name: format!("eth{last}"),
            mac: Mac([2, 0, 0, 0, 0, last]),
            driver: None,
            carrier,
            speed_mbps: None,
        }
    }

    fn declared(macs: &[u8]) -> manifest::Network {
        manifest::Network {
            macs: macs.iter().map(|last| Mac([2, 0, 0, 0, 0, *last])).collect(),
            address: Some("10.77.0.11/24".parse().unwrap()),
            gateway: None,
            dns: vec![],
            ntp: vec![],
        }
    }

    fn port(last: u8, address: Option<&str>) -> Port {
        let address = address.map(|cidr| Address {
            cidr: cidr.parse().unwrap(),
            gateway: None,
            dns: vec![],
            ntp: vec![],
        });
        Port { name: format!("eth{last}"), mac: Mac([2, 0, 0, 0, 0, last]), carrier: true, address }
    }

    #[test]
    fn every_port_with_a_link_asks_dhcp() {
        assert_eq!(plan(&[nic(1, true), nic(2, false)], &Setup::Dhcp), [How::Dhcp, How::Leave]);
    }

    #[test]
    fn a_declared_address_goes_to_the_first_declared_port_with_a_link() {
        let nics = [nic(1, false), nic(2, true), nic(3, true)];
        assert_eq!(plan(&nics, &Setup::Declared(declared(&[1, 2]))), [How::Leave, How::Static, How::Leave]);
        assert_eq!(plan(&nics, &Setup::Declared(declared(&[1]))), [How::Leave, How::Leave, How::Leave]);
    }

    #[test]
    fn no_address_is_asked_for_before_it_is_known_whether_one_is_declared() {
        assert_eq!(plan(&[nic(1, true)], &Setup::Links), [How::Leave]);
    }

    #[test]
    fn a_replaced_card_asks_dhcp() {
        assert_eq!(plan(&[nic(7, true)], &Setup::Declared(declared(&[1]))), [How::Dhcp]);
    }

    #[test]
    fn the_port_on_the_provisioners_link_is_told() {
        let ports = [port(1, Some("192.168.1.5/24")), port(2, Some("10.77.0.5/24")), port(3, None)];
        let to =
            |to: Option<&str>| port_to(&ports, to.map(|to| to.parse().unwrap())).map(|port| port.mac.0[5]);
        assert_eq!(to(Some("10.77.0.1")), Some(2));
        assert_eq!(to(Some("172.16.0.1")), Some(1));
        assert_eq!(to(None), Some(1));
        assert_eq!(port_to(&ports[2..], None).map(|port| port.mac.0[5]), Some(3));
        assert_eq!(port_to(&[], None), None);
    }
}
