//! Where a story happens: one provisioner, one machine, and what stories do with them.

use super::base::Base;
use super::platter::partition;
use super::{MACHINE, Told};
use crate::child::Child;
use crate::demo::muster::Muster;
use crate::demo::status::{Answer, Machine as Seen};
use crate::fleet;
use crate::lan::Lan;
use crate::machine::{Line, Machine, Mark, Spec};
use crate::nbd::Disk;
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Firmware that waits for answers that never come takes minutes; a busy host doubles them.
pub(super) const LONG: Duration = Duration::from_secs(900);
/// From the kernel to the next thing that the agent says, an install included.
pub(super) const AGENT: Duration = Duration::from_secs(600);
/// The agent's last words before the installed system's first.
pub(super) const SWITCHING: &str = "switching into the installed system";
/// States that only the service of an installed system reports.
const OWN_SYSTEM: &[&str] = &["installed", "joining", "ready", "degraded"];

/// What is special about a story's machine: its parts, its entry in `cluster.toml`, and what lies on its disks.
pub(super) type Hardware = fn(&mut Spec, &mut String, &Path) -> Result<()>;

pub(super) struct Site<'a> {
    pub(super) lan: &'a Lan,
    pub(super) muster: Muster<'a>,
    pub(super) machine: Machine,
    pub(super) image: PathBuf,
    serve: Option<Child>,
}

/// Where the machine was when a story looked at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) mark: Mark,
    pub(super) ms: u64,
}

/// What `serve.log` says of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) made: usize,
    pub(super) done: usize,
}

impl<'a> Site<'a> {
    /// A provisioner that serves and admits, and a machine that is off.
    pub(super) fn open(lan: &'a Lan, base: &Base, story: &str, hardware: Hardware) -> Result<Self> {
        let folder = base.folder.join(story);
        std::fs::create_dir_all(&folder)?;
        base.copy_to(&folder)?;
        let mut config = base.config.clone();
        let mut spec = fleet::spec(&base.declared, 0)?;
        hardware(&mut spec, &mut config, &folder)?;
        let muster = base.muster(lan, folder.clone());
        std::fs::write(muster.config(), config).context("writing the lab's cluster.toml")?;
        let machine = Machine::new(lan, &folder, spec)?;
        let mut site = Self { lan, muster, machine, image: base.node_image()?, serve: None };
        site.serve()?;
        site.admit()?;
        Ok(site)
    }

    /// Disks and state go, unless they are to be looked at.
    pub(super) fn close(self, remove: bool) -> Result<()> {
        let folder = self.muster.folder.clone();
        drop(self);
        if !remove {
            return Ok(());
        }
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.contains(".disk") || name.ends_with(".vars") {
                std::fs::remove_file(entry.path())?;
            } else if entry.path().is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// What led to a failure, for whoever has nothing but this program's output; without the frames on the screen.
    pub(super) fn tell_last_lines(&self) {
        const LINES: usize = 40;
        let lines = self.machine.console().lines();
        let framed = |line: &Line| line.text.trim_start().starts_with(['|', '+']);
        let lines: Vec<&Line> =
            lines.iter().filter(|line| !framed(line) && !line.text.trim().is_empty()).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            println!("{MACHINE} {} | {}", line.at_ms, line.text.chars().take(160).collect::<String>());
        }
    }

    /// Starts `muster serve` and waits for its first answer.
    pub(super) fn serve(&mut self) -> Result<()> {
        let serve = self.serve.insert(self.muster.serve()?);
        self.muster.wait_for_answer(serve, Duration::from_secs(60))
    }

    pub(super) fn admit(&self) -> Result<()> {
        self.muster.run(&["admission", "open", "--for", "60m"], Duration::from_secs(20))
    }

    /// SIGTERM, and a clean end.
    pub(super) fn stop_serve(&mut self) -> Result<()> {
        let Some(serve) = self.serve.take() else { return Ok(()) };
        let status = serve.stop().context("`muster serve` did not leave")?;
        ensure!(status.success(), "`muster serve` left with {status} on SIGTERM");
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill_serve(&mut self) {
        if let Some(serve) = self.serve.take() {
            serve.kill();
        }
    }

    pub(super) fn disk(&self) -> Result<&Disk> {
        self.machine.disk(0)
    }

    /// Where the data partition begins: nothing before it changes in an installed system but marker and boot counters.
    pub(super) fn data_start(&self) -> Result<u64> {
        Ok(partition(self.disk()?, 4)?.start)
    }

    pub(super) fn now(&self) -> Since {
        Since { mark: self.machine.console().mark(), ms: clock_ms() }
    }

    pub(super) fn power_on(&mut self) -> Result<Since> {
        let since = self.now();
        self.machine.power_on(self.lan)?;
        Ok(since)
    }

    /// The plug is pulled and put back.
    pub(super) fn power_cycle(&mut self, seed: u64) -> Result<Since> {
        self.machine.power_cut(seed)?;
        self.power_on()
    }

    pub(super) fn hear(&self, since: Since, words: &str, limit: Duration) -> Result<Line> {
        self.machine.wait_console_after(since.mark, words, limit)
    }

    /// Asks until `done` says yes of the machine.
    pub(super) fn see(
        &self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Answer, &Seen) -> bool,
    ) -> Result<Seen> {
        let began = Instant::now();
        let mut last = String::from("no answer yet");
        loop {
            match self.muster.status() {
                Ok(answer) => {
                    if let Some(seen) = answer.machine(MACHINE) {
                        if done(&answer, seen) {
                            return Ok(seen.clone());
                        }
                        last = format!("{} ({})", seen.doing(), seen.reasons.join(", "));
                    }
                }
                // one lost answer is no news
                Err(error) => last = format!("{error:#}"),
            }
            ensure!(began.elapsed() < limit, "{what}: not in {limit:?}; the status last was: {last}");
            ensure!(self.machine.is_on(), "{what}: the machine went off");
            stop::pause(Duration::from_millis(300))?;
        }
    }

    /// From a power-on to the service of the system on its own disk; seconds.
    pub(super) fn own_system(&self, since: Since) -> Result<f64> {
        self.hear(since, SWITCHING, LONG).context("it did not go into its own disk's system")?;
        self.see("the installed system's service", AGENT, |answer, seen| {
            let state = seen.state.as_deref().unwrap_or_default();
            // what the provisioner knows may be of the boot before; what comes over the LAN is said now
            let new = answer.source == "lan"
                || seen
                    .stages
                    .iter()
                    .any(|stage| stage.step == "node" && stage.at_unix_ms.is_some_and(|at| at >= since.ms));
            OWN_SYSTEM.contains(&state) && new
        })?;
        Ok((clock_ms() - since.ms) as f64 / 1000.0)
    }

    /// Installs the machine unless that was done, and leaves it running in its own system.
    pub(super) fn be_installed(&mut self) -> Result<()> {
        if self.machine.is_on() {
            return Ok(());
        }
        let since = self.power_on()?;
        self.own_system(since).map(drop)
    }

    /// Orders made and carried out, by the provisioner's own log over all its lives.
    pub(super) fn orders(&self) -> Result<Orders> {
        let text = std::fs::read_to_string(self.muster.folder.join("serve.log"))?;
        let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
        Ok(Orders { made: count(" to install on disk "), done: count(" is done: installed") })
    }

    /// One order was made, one carried out, and the store says so too.
    pub(super) fn one_install(&self) -> Result<String> {
        let orders = self.orders()?;
        ensure!(orders == Orders { made: 1, done: 1 }, "not one install but {orders:?}");
        let seen = self.see("its order", Duration::from_secs(20), |answer, seen| {
            answer.source == "provisioner" && seen.order.is_some()
        })?;
        let order = seen.order.unwrap_or_default();
        ensure!(order.state == "done", "order {} is {}", order.number, order.state);
        Ok(order.number)
    }

    /// What `muster node explain` says, once it says these words.
    pub(super) fn explained(&self, words: &str, limit: Duration) -> Result<String> {
        let began = Instant::now();
        loop {
            let text = self.explain()?;
            if text.contains(words) {
                return Ok(text);
            }
            ensure!(began.elapsed() < limit, "`muster node explain` never said `{words}` but: {text}");
            stop::pause(Duration::from_millis(500))?;
        }
    }

    fn explain(&self) -> Result<String> {
        let (code, text) = self.muster.ask(&["node", "explain", MACHINE], Duration::from_secs(20))?;
        match code {
            Some(0 | 6) => Ok(text),
            _ => bail!("`muster node explain` left with {code:?}"),
        }
    }
}

pub(super) fn told(line: String, figures: Value) -> Result<Told> {
    Ok(Told { line, figures })
}
