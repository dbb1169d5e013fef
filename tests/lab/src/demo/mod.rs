//! `make demo`: seven machines with empty disks, from the power button to a healthy cluster, with the real binaries.
//!
//! The report is written whatever happens after power-on; the demo succeeds only when nothing was found to complain about.

mod after;
mod canary;
mod checks;
pub(crate) mod config;
mod confirm;
mod disk;
pub(crate) mod muster;
pub(crate) mod parts;
mod report;
pub(crate) mod status;
mod timeline;
pub mod waiting;
mod watch;

use crate::arguments::Demo;
use crate::child::Child;
use crate::fleet::{self, Declared};
use crate::lan::{Lan, Plan};
use crate::machine::{First, Machine, Spec};
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail, ensure};
use muster::Muster;
use report::{Digests, Known, Outside};
use status::Answer;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};
use watch::Watch;

const FOLDER: &str = "target/demo";
/// What is true of every run of the lab.
const STAND_INS: &[&str] = &[
    "hardware: QEMU machines (TCG) with the SMBIOS strings of the real products",
    "hardware: one virtual CPU each; x86-64 kernels get `no_timer_check` from SMBIOS, as KVM guests do by themselves",
    "network: one bridge in network namespaces, dnsmasq as the foreign DHCP server",
];
/// How long a machine whose cable was pulled may take to prove us wrong, once all others are ready.
const PULLED_GRACE: Duration = Duration::from_secs(30);

pub fn run(asked: &Demo) -> Result<bool> {
    let folder = std::path::absolute(FOLDER)?;
    let text = std::fs::read_to_string(&asked.config).with_context(|| asked.config.display().to_string())?;
    let all = fleet::declared(&text)?;
    let specs = all
        .iter()
        .enumerate()
        .map(|(place, machine)| fleet::spec(machine, place))
        .collect::<Result<Vec<_>>>()?;
    let declared = fleet::pick(all, &asked.only)?;
    let names: Vec<String> = declared.iter().map(|machine| machine.name.clone()).collect();
    let mut specs: Vec<Spec> = specs.into_iter().filter(|spec| names.contains(&spec.name)).collect();
    if let Some(pulled) = &asked.pull_cable {
        ensure!(names.contains(pulled), "--pull-cable {pulled}: no such machine in this run");
    }
    let cycled = after::network_first(&declared).map(str::to_owned);
    let cycled = cycled.as_deref();
    for spec in specs.iter_mut().filter(|spec| Some(&*spec.name) == cycled) {
        spec.first = First::Network;
    }
    // everything that can be missing is looked for before anything is started
    let binary = parts::muster(&asked.bin)?;
    let mut arches: Vec<&str> = specs.iter().map(|spec| spec.arch.word()).collect();
    arches.sort_unstable();
    arches.dedup();
    let builds = parts::builds(
        &asked.bin,
        &arches,
        &config::version(&text, "k3s")?,
        &config::version(&text, "kata")?,
    )?;

    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    let lan = Lan::build(&Plan::house(&folder))?;
    let muster = Muster { lan: &lan, binary, folder: folder.clone() };
    std::fs::write(muster.config(), config::lab_copy(&text, &names)?)
        .context("writing the lab's cluster.toml")?;
    say("a LAN, and on it a DHCP server that knows nothing of netbooting");
    muster.run(&["init"], Duration::from_secs(60))?;
    for build in &builds {
        say(&format!("muster {}", build.join(" ")));
        muster.run(build, Duration::from_secs(600))?;
    }
    let serve = muster.serve()?;
    muster.wait_for_answer(&serve, Duration::from_secs(30))?;
    muster.run(&["admission", "open", "--for", "30m"], Duration::from_secs(20))?;

    let mut run = Run {
        asked,
        lan: &lan,
        muster,
        serve,
        declared,
        machines: Vec::new(),
        last: Answer::default(),
        power_on_ms: 0,
        lan_ms: Vec::new(),
        watch: Watch::new(std::io::stdout().is_terminal()),
    };
    for spec in specs {
        run.machines.push(Machine::new(&lan, &folder, spec)?);
    }
    let outcome = run.until_ready().and_then(|()| run.afterwards(cycled));
    if stop::requested() {
        outcome?;
        return Ok(false);
    }
    let complaints = match outcome {
        Ok(complaints) => complaints,
        Err(error) => vec![format!("{error:#}")],
    };
    let last = std::mem::take(&mut run.last);
    run.finish(&last, complaints, &folder)
}

struct Run<'a> {
    asked: &'a Demo,
    lan: &'a Lan,
    muster: Muster<'a>,
    serve: Child,
    declared: Vec<Declared>,
    machines: Vec<Machine>,
    /// The newest complete answer; the report is made from it.
    last: Answer,
    power_on_ms: u64,
    /// How long each question to the agents took.
    lan_ms: Vec<f64>,
    watch: Watch,
}

impl Run<'_> {
    /// Presses all power buttons and watches until all are ready.
    fn until_ready(&mut self) -> Result<()> {
        if let Some(pulled) = &self.asked.pull_cable {
            for machine in self.machines.iter_mut().filter(|machine| machine.name() == pulled) {
                machine.cut_link(self.lan)?;
                say(&format!("the cable of {pulled} is out"));
            }
        }
        self.power_on_ms = clock_ms();
        self.machines.iter_mut().try_for_each(|machine| machine.power_on(self.lan))?;
        say(&format!("{} machines are switched on", self.machines.len()));
        self.watch(self.asked.limit, |answer, names| {
            names.iter().all(|name| answer.machine(name).is_some_and(status::Machine::is_ready))
        })
    }

    /// Polls the status, shows it, and returns when `done` says so; an error when time is over or something died.
    fn watch(&mut self, limit: Duration, done: impl Fn(&Answer, &[String]) -> bool) -> Result<()> {
        let names: Vec<String> = self.declared.iter().map(|machine| machine.name.clone()).collect();
        let started = Instant::now();
        let mut others_ready: Option<Instant> = None;
        loop {
            match self.muster.status() {
                Ok(answer) => self.last = answer,
                Err(error) if stop::requested() => return Err(error),
                // one lost answer is no news; a dead provisioner is found below
                Err(error) => eprintln!("lab: {error:#}"),
            }
            let since = Duration::from_millis(clock_ms().saturating_sub(self.power_on_ms));
            let rows = watch::rows(&names, &self.last, |name| self.last_line(name));
            self.watch.show(since, &rows);
            if done(&self.last, &names) {
                self.watch.leave();
                return Ok(());
            }
            if self.serve.ended().is_some() {
                self.watch.leave();
                bail!(
                    "`muster serve` ended by itself{}",
                    muster::tail(&self.muster.folder.join("serve.log"), 8)
                );
            }
            if let Some(dead) = self.machines.iter().find(|machine| !machine.is_on()) {
                bail!("{} went off; see {}", dead.name(), dead.console().file().display());
            }
            let pulled = self.asked.pull_cable.as_deref();
            let waiting = |name: &&String| !self.last.machine(name).is_some_and(status::Machine::is_ready);
            if names.iter().filter(waiting).all(|name| Some(&**name) == pulled) && pulled.is_some() {
                others_ready.get_or_insert_with(Instant::now);
            }
            if started.elapsed() >= limit || others_ready.is_some_and(|since| since.elapsed() >= PULLED_GRACE)
            {
                let late: Vec<String> =
                    names.iter().filter(waiting).map(|name| self.why_not_ready(name)).collect();
                bail!("not ready after {:.0} s: {}", since.as_secs_f64(), late.join("; "));
            }
            stop::pause(Duration::from_secs(2))?;
        }
    }

    /// Checks, power cycle, the provisioner's absence; every complaint is a sentence.
    fn afterwards(&mut self, cycled: Option<&str>) -> Result<Vec<String>> {
        let mut complaints = checks::findings(&self.declared, &self.last);
        complaints.extend(after::loaders(&self.machines, cycled));
        if let Some(name) = cycled {
            complaints.extend(self.power_cycle(name)?);
        }
        self.keep_answers()?;
        complaints.extend(self.without_provisioner()?);
        Ok(complaints)
    }

    fn why_not_ready(&self, name: &str) -> String {
        match self.last.machine(name) {
            Some(machine) if machine.state.is_some() => {
                let why = machine.reasons.join(", ");
                format!("{name} is {}{}{why}", machine.doing(), if why.is_empty() { "" } else { ": " })
            }
            Some(_) | None => {
                format!("{name} was never heard of; its console last said `{}`", self.last_line(name))
            }
        }
    }

    fn last_line(&self, name: &str) -> String {
        let machine = self.machines.iter().find(|machine| machine.name() == name);
        machine.and_then(|machine| machine.console().lines().pop()).map(|line| line.text).unwrap_or_default()
    }

    /// Everything off, then the evidence and the digests: neither capture nor consoles change any more. Tells whether all
    /// was well.
    fn finish(mut self, last: &Answer, mut complaints: Vec<String>, folder: &Path) -> Result<bool> {
        self.serve.stop();
        for machine in &mut self.machines {
            machine.power_off(Duration::ZERO)?;
        }
        let mut digests = Digests { capture: None, consoles: Default::default() };
        if let Some(capture) = self.lan.capture() {
            capture.stop();
            digests.capture = Some(report::sha256(capture.file())?);
        }
        for machine in &self.machines {
            digests.consoles.insert(machine.name().to_owned(), report::sha256(machine.console().file())?);
        }
        let confirmed = confirm::confirm(&self.declared, last, folder)?;
        let ready = |name: &str| last.machine(name).is_some_and(status::Machine::is_ready);
        let canary = canary::search(folder, &self.declared, &ready)?;
        complaints.extend(confirmed.complaints());
        complaints.extend(canary.found.iter().map(|found| format!("canary: {found}")));
        let known: Vec<Known> = self.machines.iter().zip(&self.declared).map(known).collect();
        let file = folder.join("report.json");
        let seen = Outside { digests, confirmed, canary, lan_status_ms: std::mem::take(&mut self.lan_ms) };
        report::write(&report::report(&known, last, STAND_INS, &seen), &file)?;

        let ordered: Vec<&status::Machine> =
            self.declared.iter().filter_map(|d| last.machine(&d.name)).collect();
        println!("\n{}", timeline::timeline(&ordered, self.power_on_ms));
        println!("{}", seen.confirmed.line());
        seen.confirmed.all_missed().iter().for_each(|missed| println!("  missed: {missed}"));
        println!("{}", seen.canary.line());
        for complaint in &complaints {
            println!("NOT WELL: {complaint}");
        }
        if complaints.is_empty() {
            let all = self.machines.len();
            println!(
                "all {all} machines are ready, {:.0} s after power-on they were first",
                ready_after(last, self.power_on_ms)
            );
        }
        println!("\nlook at: {}", file.display());
        println!(
            "         {}/NAME.console    what each machine said, with the host's clock",
            folder.display()
        );
        println!("         tcpdump -nr {}/lan.pcap 'port 67 or port 4011 or port 69'", folder.display());
        println!("         {}/serve.log, muster.log, dnsmasq.log", folder.display());
        if complaints.is_empty() && !self.asked.keep {
            self.remove_state(folder);
        }
        Ok(complaints.is_empty())
    }

    /// Disks and provisioner state; what was seen (consoles, capture, logs, report) stays.
    fn remove_state(self, folder: &Path) {
        drop(self.machines);
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.contains(".disk") || name.ends_with(".vars") || name.ends_with(".code") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let _ = std::fs::remove_dir_all(folder.join("provisioner"));
        let _ = std::fs::remove_dir_all(folder.join("operator"));
    }
}

fn known((machine, declared): (&Machine, &Declared)) -> Known {
    Known {
        name: declared.name.clone(),
        class: declared.class.clone(),
        architecture: machine.spec().arch.word(),
        stand_in: machine.spec().hardware.stand_in,
    }
}

/// When the last machine became ready for the first time.
fn ready_after(answer: &Answer, power_on_ms: u64) -> f64 {
    let ready = |machine: &status::Machine| {
        machine.stages.iter().filter(|stage| stage.step == "ready").filter_map(|stage| stage.at_unix_ms).min()
    };
    let last = answer.machines.iter().filter_map(ready).max().unwrap_or(power_on_ms);
    last.saturating_sub(power_on_ms) as f64 / 1000.0
}

fn say(text: &str) {
    println!("lab: {text}");
}
