//! What one boot knows so far: the phases fill it in, in the order of their table.

use super::attempts::Attempts;
use super::background::Background;
use super::coldplug::Coldplug;
use super::decide::Me;
use super::disks::Ours;
use super::key::{Kept, NodeKey};
use super::network::{Net, Port};
use super::report::{self, Now};
use super::timeline::{Timeline, uptime_ms};
use super::{clock, disks};
use crate::console::{Face, block};
use crate::log::Log;
use crate::state::{Numbers, Root};
use anyhow::Context;
use muster_protocol::class::{Class, classify};
use muster_protocol::hello::Hello;
use muster_protocol::ids::{InstanceId, Mac};
use muster_protocol::inventory::Inventory;
use muster_protocol::manifest::Manifest;
use muster_protocol::signed::Trust;
use muster_protocol::status::{Progress, State};
use muster_protocol::sync::Report;
use muster_protocol::wire;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::watch;

pub(super) struct Machine {
    pub log: &'static Log,
    pub timeline: Timeline,
    /// From the kernel's own random boot id, so that the node service after `switch_root` is the same boot.
    pub boot: InstanceId,
    pub kernel: String,
    pub coldplug: Coldplug,
    pub trust: Option<Trust>,
    pub inventory: Option<Inventory>,
    pub ours: Option<Ours>,
    pub numbers: Numbers,
    pub manifest: Option<Manifest>,
    pub key: Option<NodeKey>,
    pub background: Option<Background>,
    pub net: Option<Net>,
    /// As its task sees them now.
    pub ports: Option<watch::Receiver<Vec<Port>>>,
    pub provisioner: Option<SocketAddr>,
    /// The provisioner's port for artifacts.
    pub http_port: u16,
    /// What the last install stopped at; told until the next one.
    pub failure: Option<String>,
    pub attempts: Attempts,
    sequence: u64,
    state: State,
    reason: Option<String>,
    shown: Option<Face>,
}

impl Machine {
    pub(super) fn new(log: &'static Log, kernel: String, began_ms: u64) -> Self {
        Self {
            log,
            timeline: Timeline::begin(began_ms),
            boot: InstanceId([0; 8]),
            coldplug: Coldplug::new(&kernel),
            kernel,
            trust: None,
            inventory: None,
            ours: None,
            numbers: Numbers::default(),
            manifest: None,
            key: None,
            background: None,
            net: None,
            ports: None,
            provisioner: None,
            http_port: 80,
            failure: None,
            attempts: Attempts::default(),
            sequence: 0,
            state: State::Netbooted,
            reason: None,
            shown: None,
        }
    }

    pub(super) fn trust(&self) -> anyhow::Result<&Trust> {
        self.trust.as_ref().context("the trust file was not read")
    }

    pub(super) fn key(&self) -> anyhow::Result<&NodeKey> {
        self.key.as_ref().context("there is no node key")
    }

    pub(super) fn inventory(&self) -> anyhow::Result<&Inventory> {
        self.inventory.as_ref().context("nothing was detected")
    }

    /// The next look at the disks begins anew.
    pub(super) fn forget_contents(&mut self) {
        for disk in self.inventory.iter_mut().flat_map(|inventory| &mut inventory.disks) {
            disk.contents = None;
        }
    }

    /// What lies on the data partition of the installed disk.
    pub(super) fn held() -> Root {
        Root::new(disks::HELD)
    }

    pub(super) fn class(&self) -> Class {
        self.inventory.as_ref().map_or(Class::Generic, |inventory| classify(inventory, &[]))
    }

    pub(super) fn ports(&self) -> Vec<Port> {
        self.ports.as_ref().map(|ports| ports.borrow().clone()).unwrap_or_default()
    }

    pub(super) fn me(&self) -> anyhow::Result<Me<'_>> {
        let trust = self.trust()?;
        Ok(Me {
            trust,
            key: self.key()?.secret.public().fingerprint(),
            detected: self.class(),
            marker: self.ours.as_ref().map(|ours| &ours.marker),
            unbootable: self.ours.as_ref().and_then(|ours| ours.unbootable.as_deref()),
            kernel: &self.kernel,
            given_up: self.attempts.given_up(),
            delegation: self.numbers.delegation,
            now: clock::now(trust),
        })
    }

    pub(super) fn hello(&self, mac: Mac) -> anyhow::Result<Hello> {
        Ok(Hello {
            inventory: wire::encode(self.inventory()?),
            marker: self.ours.as_ref().map(|ours| ours.marker.summary()),
            seen: self.numbers.seen(),
            uptime_ms: uptime_ms(),
            mac,
        })
    }

    /// A report for the provisioner. `log` is sent only when something failed.
    pub(super) fn report(&mut self, step: Option<Progress>, mac: Option<Mac>) -> anyhow::Result<Report> {
        self.sequence += 1;
        let ports = self.ports();
        let port = ports.iter().find(|port| Some(port.mac) == mac);
        let now = Now {
            state: self.state,
            step,
            reasons: self.failure.iter().chain(&self.reason).cloned().collect(),
            address: port.and_then(|port| port.address.as_ref()).map(|address| address.cidr.address),
            uptime_ms: uptime_ms(),
            sequence: self.sequence,
        };
        let boot = report::Boot {
            node: self.ours.as_ref().map(|ours| ours.marker.node.clone()),
            key: self.key()?.secret.public().fingerprint(),
            boot: self.boot,
            inventory: self.inventory()?,
            detected: self.class(),
            kernel: &self.kernel,
            stages: self.timeline.stages(),
        };
        let status = report::status(&boot, now, report::memory_available(Path::new("/")));
        let installed =
            self.ours.as_ref().map(|ours| ours.marker.summary()).filter(|marker| marker.installed);
        let log = if self.failure.is_some() { self.log.kept() } else { Vec::new() };
        Ok(Report { status, installed: installed.map(|marker| marker.order), log })
    }

    /// Where this boot is now, for report and console.
    pub(super) fn show(&mut self, state: State, reason: Option<&str>) {
        self.now(state, reason);
        self.print();
    }

    /// As [`Self::show`], for what may be other again in a moment: the caller prints when it has lasted.
    pub(super) fn now(&mut self, state: State, reason: Option<&str>) {
        self.state = state;
        self.reason = reason.map(str::to_owned);
    }

    /// The block, when it says something new: a serial line takes a tenth of a second for each.
    pub(super) fn print(&mut self) {
        let face = self.face();
        if self.shown.as_ref() != Some(&face) {
            self.log.show(&block(&face));
            self.shown = Some(face);
        }
    }

    pub(super) fn face(&self) -> Face {
        let dmi = self.inventory.as_ref().map(|inventory| &inventory.dmi);
        let said = |text: Option<&String>| text.cloned();
        let vendor = dmi.and_then(|dmi| said(dmi.vendor.as_ref())).unwrap_or("unknown vendor".into());
        let product = dmi.and_then(|dmi| said(dmi.product.as_ref())).unwrap_or_default();
        let mut ports = Vec::new();
        for port in self.ports().into_iter().filter(|port| port.carrier) {
            let address = port.address.map(|address| address.cidr.address);
            ports.push((port.name, port.mac.to_string(), address));
        }
        Face {
            cluster: self.trust.as_ref().map_or("unknown".into(), |trust| trust.cluster_name.clone()),
            node: self.ours.as_ref().map(|ours| ours.marker.node.to_string()),
            machine: format!("{vendor} {product} ({})", self.class()),
            serial: dmi.and_then(|dmi| said(dmi.serial.as_ref())),
            fingerprint: self.key.as_ref().map(|key| key.secret.public().fingerprint()),
            key_kept: self.key.as_ref().is_none_or(|key| key.kept != Kept::Memory),
            ports,
            provisioner: self.provisioner.map(|at| at.to_string()),
            state: self.state.to_string(),
            reason: self.failure.clone().or_else(|| self.reason.clone()),
        }
    }
}
