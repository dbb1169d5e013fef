//! A machine: QEMU with real firmware, disks of ours that lose what was not flushed, a cable, and verbs.

mod arguments;
mod console;
mod firmware;
pub mod hardware;
mod qmp;
mod spec;
mod text;

pub use console::{Console, Echo, Line, Mark};
pub use hardware::Hardware;
pub use spec::{Arch, Bus, Direct, DiskSpec, First, Spec};

use crate::child::Child;
use crate::clock_ms;
use crate::lan::{Lan, Place, Port};
use crate::nbd::{CACHE_LIMIT, Cut, Disk};
use anyhow::{Context, Result, bail, ensure};
use arguments::{Wiring, arguments, program};
use firmware::Firmware;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Powered off when dropped. Must not outlive its LAN: QEMU lives in the LAN's namespace.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    folder: PathBuf,
    ports: Vec<Port>,
    disks: Vec<Disk>,
    wiring: Wiring,
    console: Console,
    qemu: Option<Child>,
    plugged: bool,
    echo: Option<Echo>,
}

impl Machine {
    /// Puts a machine on the LAN, switched off. Disks and firmware variables of that name in the LAN's folder are kept.
    pub fn new(lan: &Lan, folder: impl Into<PathBuf>, spec: Spec) -> Result<Self> {
        let folder = folder.into();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(
            !spec.name.is_empty() && spec.name.len() <= 32 && spec.name.chars().all(word),
            "machine name `{}`: letters, digits and dashes, at most 32",
            spec.name
        );
        std::fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
        let mut disks = Vec::new();
        for (n, disk) in spec.disks.iter().enumerate() {
            let socket = lan.sockets().join(format!("{}.{n}", spec.name));
            let backing = folder.join(format!("{}.disk{n}", spec.name));
            disks.push(Disk::start(&socket, &backing, disk.size, CACHE_LIMIT)?);
        }
        let ports: Vec<Port> = spec.macs.iter().map(|_| lan.port()).collect::<Result<_>>()?;
        let wiring = Wiring {
            firmware: Firmware::prepare(spec.arch, &folder, &spec.name)?,
            taps: ports.iter().map(|port| port.tap().to_owned()).collect(),
            disks: disks.iter().map(|disk| disk.socket().to_owned()).collect(),
            qmp: lan.sockets().join(format!("{}.qmp", spec.name)),
        };
        let console = Console::open(&folder.join(format!("{}.console", spec.name)))?;
        Ok(Self { spec, folder, ports, disks, wiring, console, qemu: None, plugged: true, echo: None })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    pub fn disk(&self, n: usize) -> Result<&Disk> {
        self.disks.get(n).with_context(|| format!("{} has no disk {n}", self.spec.name))
    }

    /// Each console line is also given to this from the next power-on.
    pub fn echo(&mut self, echo: Echo) {
        self.echo = Some(echo);
    }

    /// What the firmware tries first, and whether it is started directly; counts from the next power-on.
    pub fn reconfigure(&mut self, first: First, direct: Option<Direct>) {
        self.spec.first = first;
        self.spec.direct = direct;
    }

    pub fn is_on(&self) -> bool {
        self.qemu.as_ref().is_some_and(|qemu| qemu.ended().is_none())
    }

    /// Presses the power button of a machine that is off.
    pub fn power_on(&mut self, lan: &Lan) -> Result<()> {
        ensure!(!self.is_on(), "{} is on already", self.spec.name);
        let accel = std::env::var("MUSTER_LAB_ACCEL").unwrap_or_else(|_| arguments::ACCEL.into());
        let mut command = lan.exec_in(Place::Bridge, program(self.spec.arch));
        command.args(arguments(&self.spec, &self.wiring, &accel));
        command.args(real_time_clock(self.spec.clock_error_s)?);
        let log = self.folder.join(format!("{}.qemu.log", self.spec.name));
        // a killed QEMU leaves its socket, on which nobody answers
        let _ = std::fs::remove_file(&self.wiring.qmp);
        let (qemu, output) = Child::start_piped(&self.spec.name, command, &log)?;
        self.console.follow(output, self.echo.clone())?;
        self.qemu = Some(qemu);
        if !self.plugged {
            // QEMU starts with the link up: the guest's view must follow the cable's
            self.set_link(false)?;
        }
        Ok(())
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        let Some(qemu) = &self.qemu else { return Ok(()) };
        match qemu.wait(limit)? {
            Some(_) => Ok(()),
            None => bail!("{} is still on after {limit:?}", self.spec.name),
        }
    }

    /// The short press: the system may shut down by itself for `grace`; then QEMU is told to leave, which flushes its disks.
    pub fn power_off(&mut self, grace: Duration) -> Result<()> {
        let Some(qemu) = &self.qemu else { return Ok(()) };
        if qemu.ended().is_none() && !grace.is_zero() {
            // firmware and boot image do not listen to the button; that is no error
            let _ = qmp::execute(&self.wiring.qmp, "system_powerdown", json!({}));
            qemu.wait(grace)?;
        }
        if qemu.ended().is_none() {
            qemu.stop();
        }
        self.qemu = None;
        Ok(())
    }

    /// The plug is pulled: QEMU is killed, and its disks lose a random part of what was not flushed.
    pub fn power_cut(&mut self, seed: u64) -> Result<Vec<Cut>> {
        if let Some(qemu) = self.qemu.take() {
            qemu.kill();
        }
        let cut = |(n, disk): (usize, &Disk)| disk.cut(seed.wrapping_add(n as u64));
        self.disks.iter().enumerate().map(cut).collect()
    }

    /// Pulls the network cable. The machine sees its link go; it stays pulled through power cycles.
    pub fn cut_link(&mut self, lan: &Lan) -> Result<()> {
        self.cable(lan, false)
    }

    pub fn plug_link(&mut self, lan: &Lan) -> Result<()> {
        self.cable(lan, true)
    }

    /// Loses this share of its packets, each way.
    pub fn lose_packets(&self, lan: &Lan, percent: u8) -> Result<()> {
        self.ports.iter().try_for_each(|port| lan.lose_packets(port, percent))
    }

    /// Waits for words on the console, from any time.
    pub fn wait_console(&self, words: &str, limit: Duration) -> Result<Line> {
        self.wait_console_after(Mark::default(), words, limit)
    }

    pub fn wait_console_after(&self, mark: Mark, words: &str, limit: Duration) -> Result<Line> {
        self.console.wait_after(mark, words, limit).with_context(|| self.spec.name.clone())
    }

    fn cable(&mut self, lan: &Lan, up: bool) -> Result<()> {
        self.plugged = up;
        self.ports.iter().try_for_each(|port| lan.link(port, up))?;
        if self.is_on() { self.set_link(up) } else { Ok(()) }
    }

    fn set_link(&self, up: bool) -> Result<()> {
        let mut result = Ok(());
        crate::settle("QEMU's control socket", || self.wiring.qmp.exists() || !self.is_on())?;
        for n in 0..self.ports.len() {
            let arguments = json!({ "name": format!("net{n}"), "up": up });
            result = result.and(qmp::execute(&self.wiring.qmp, "set_link", arguments).map(drop));
        }
        result.with_context(|| format!("cable of {}", self.spec.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // no ACPI: this is the end of a test, not a shutdown
        let _ = self.power_off(Duration::ZERO);
    }
}

/// QEMU's words for a clock that is wrong by so much now.
fn real_time_clock(error_s: i64) -> Result<Vec<String>> {
    if error_s == 0 {
        return Ok(Vec::new());
    }
    let shown = (clock_ms() / 1000).saturating_add_signed(error_s);
    let date = Command::new("date").args(["-u", "-d", &format!("@{shown}"), "+base=%FT%T"]).output();
    let date = String::from_utf8(date.context("asking date(1)")?.stdout)?;
    Ok(vec!["-rtc".into(), date.trim().into()])
}
