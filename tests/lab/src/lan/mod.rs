//! A LAN from network namespaces: a bridge, a provisioner's place, a foreign DHCP server's place, and ports for machines.
//!
//! Nothing leaves the namespaces. All that runs does so inside one of them, so that a later run can find and end what a
//! killed one left; everything is gone when the `Lan` is dropped.

mod capture;
mod foreign;
mod loss;

pub use capture::{Capture, Depth};
pub use foreign::Pxe;

use crate::child::{Child, run};
use crate::settle;
use anyhow::{Context, Result, ensure};
use netns::Netns;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sockets live here and not in the run's folder: a unix socket's path has room for 107 bytes only.
const SOCKETS: &str = "/run/muster-lab";
const BRIDGE: &str = "lan";

#[derive(Debug, Clone)]
pub struct Subnet {
    pub provisioner: Ipv4Addr,
    pub foreign: Ipv4Addr,
    pub pool: (Ipv4Addr, Ipv4Addr),
}

/// What a LAN is made with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Logs and the capture go here.
    pub folder: PathBuf,
    pub subnet: Subnet,
    /// `None`: no DHCP server but ours.
    pub foreign_dhcp: bool,
    /// The foreign server boots machines as well; for trials without a provisioner.
    pub pxe: Option<Pxe>,
    pub capture: Option<Depth>,
}

impl Plan {
    /// As in a customer's house: their DHCP server, and a capture that samples bulk data.
    pub fn house(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            subnet: Subnet::default(),
            foreign_dhcp: true,
            pxe: None,
            capture: Some(Depth::Sampled),
        }
    }
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// With `eth0` = the provisioner's address.
    Provisioner,
    /// Where the DHCP server lives.
    Foreign,
    /// With the bridge and all taps.
    Bridge,
}

/// One machine's socket in the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    tap: String,
}

impl Port {
    pub(crate) fn tap(&self) -> &str {
        &self.tap
    }
}

#[derive(Debug)]
pub struct Lan {
    prefix: String,
    folder: PathBuf,
    sockets: PathBuf,
    ports: AtomicU32,
    // in the order in which they must end: programs first, capture last of them, then the namespaces
    dnsmasq: Option<Child>,
    capture: Option<Capture>,
    provisioner: Netns,
    foreign: Netns,
    bridge: Netns,
}

impl Lan {
    pub fn build(plan: &Plan) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a LAN needs root: it makes network namespaces");
        netns::remove_leftovers()?;
        netns::remove_folders(Path::new(SOCKETS));
        std::fs::create_dir_all(&plan.folder).with_context(|| format!("folder {}", plan.folder.display()))?;

        let prefix = netns::unique()?;
        let sockets = Path::new(SOCKETS).join(&prefix);
        std::fs::create_dir_all(&sockets).context("folder for sockets")?;
        let place = |what: &str| Netns::make(format!("{prefix}-{what}"));
        let (bridge, provisioner, foreign) = (place("lan")?, place("prov")?, place("dhcp")?);

        // no spanning tree and no forward delay: a port carries from its first packet on
        bridge.ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
        bridge.ip(&["link", "set", BRIDGE, "up"])?;
        let mut lan = Self {
            prefix,
            folder: plan.folder.clone(),
            sockets,
            ports: AtomicU32::new(0),
            dnsmasq: None,
            capture: None,
            provisioner,
            foreign,
            bridge,
        };
        if let Some(depth) = plan.capture {
            let file = lan.folder.join("lan.pcap");
            let _ = std::fs::remove_file(&file);
            lan.capture =
                Some(Capture::start(&lan.bridge, BRIDGE, &file, &lan.folder.join("tcpdump.log"), depth)?);
        }
        lan.cable(&lan.provisioner, "prov", plan.subnet.provisioner)?;
        lan.cable(&lan.foreign, "dhcp", plan.subnet.foreign)?;
        if plan.foreign_dhcp {
            lan.dnsmasq = Some(lan.start_dnsmasq(plan)?);
        }
        Ok(lan)
    }

    /// The unique beginning of all names of this LAN.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A folder for unix sockets, gone with the LAN.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub fn capture(&self) -> Option<&Capture> {
        self.capture.as_ref()
    }

    /// A command that will run at `place`; start it with `Child::start`.
    pub fn exec_in(&self, place: Place, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.netns(place).command(program)
    }

    /// A new port of the switch, plugged in.
    pub fn port(&self) -> Result<Port> {
        let tap = format!("tap{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.bridge.ip(&["tuntap", "add", &tap, "mode", "tap"])?;
        self.bridge.ip(&["link", "set", &tap, "master", BRIDGE])?;
        self.bridge.ip(&["link", "set", &tap, "up"])?;
        Ok(Port { tap })
    }

    /// Pulls or plugs the cable at the switch's end.
    pub fn link(&self, port: &Port, up: bool) -> Result<()> {
        self.bridge.ip(&["link", "set", &port.tap, if up { "up" } else { "down" }]).map(drop)
    }

    /// Loses this share of the packets of a port, each way by itself; 0 loses none.
    pub fn lose_packets(&self, port: &Port, percent: u8) -> Result<()> {
        let mut command = self.bridge.command("nft");
        command.arg(loss::rules(&port.tap, percent)?);
        run(command).map(drop)
    }

    /// A firewall between all ports: what is sent to this UDP port does not arrive.
    pub fn drop_port(&self, port: u16, dropped: bool) -> Result<()> {
        let mut command = self.bridge.command("nft");
        command.arg(loss::port_rules(port, dropped));
        run(command).map(drop)
    }

    fn netns(&self, place: Place) -> &Netns {
        match place {
            Place::Provisioner => &self.provisioner,
            Place::Foreign => &self.foreign,
            Place::Bridge => &self.bridge,
        }
    }

    /// A veth from the bridge into a namespace, where it is `eth0`.
    fn cable(&self, to: &Netns, end: &str, address: Ipv4Addr) -> Result<()> {
        self.bridge.ip(&["link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", to.name()])?;
        // a DHCP client that reads raw frames drops those whose checksum was left to hardware that a veth has not
        for (netns, interface) in [(&self.bridge, end), (to, "eth0")] {
            let mut command = netns.command("ethtool");
            command.args(["-K", interface, "tx", "off", "rx", "off"]);
            run(command)?;
        }
        self.bridge.ip(&["link", "set", end, "master", BRIDGE])?;
        self.bridge.ip(&["link", "set", end, "up"])?;
        to.ip(&["address", "add", &format!("{address}/24"), "brd", "+", "dev", "eth0"])?;
        to.ip(&["link", "set", "eth0", "up"]).map(drop)
    }

    fn start_dnsmasq(&self, plan: &Plan) -> Result<Child> {
        let leases = self.folder.join("dnsmasq.leases");
        let _ = std::fs::remove_file(&leases);
        let file = self.folder.join("dnsmasq.conf");
        let text = foreign::configuration(&plan.subnet, plan.pxe.as_ref(), &leases);
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut command = self.foreign.command("dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
        let log = self.folder.join("dnsmasq.log");
        let child = Child::start("dnsmasq", command, &log)?;
        settle("start of the foreign DHCP server", || {
            let listening = self.exec_in(Place::Foreign, "ss");
            child.ended().is_some() || bound(listening, 67)
        })
        .with_context(|| format!("see {}", log.display()))?;
        ensure!(child.ended().is_none(), "dnsmasq ended at once, see {}", log.display());
        Ok(child)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Some(child) = self.dnsmasq.take() {
            child.stop();
        }
        if let Some(capture) = self.capture.take() {
            capture.stop();
        }
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// Somebody listens on a UDP port there.
fn bound(mut ss: Command, port: u16) -> bool {
    ss.args(["-H", "-l", "-n", "-u", &format!("sport = {port}")]);
    run(ss).is_ok_and(|text| !text.trim().is_empty())
}
