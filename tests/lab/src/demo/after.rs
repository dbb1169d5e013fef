//! What the demo does when all are ready: look at who loaded the kernels, pull one plug, and take the provisioner away.

use super::{Run, say, status};
use crate::fleet::Declared;
use crate::machine::Machine;
use crate::{clock_ms, stop};
use anyhow::Result;
use std::time::{Duration, Instant};

/// Steps that only an install has.
const INSTALL: &[&str] =
    &["claim", "choose", "wipe", "partition", "write", "verify", "esp", "seed", "bootentry", "mark"];
/// Far below a node image, far above what a node writes in a few minutes.
const NO_IMAGE: u64 = 200 << 20;
/// How long all agents may take to say over the LAN that they are ready.
const LAN_LIMIT: Duration = Duration::from_secs(60);

/// The bench makes a p95 of them.
const LAN_QUERIES: usize = 20;

/// The machine whose firmware always asks the network first, and that is power-cycled: a worker, so that what is seen is
/// the boot and not etcd.
pub(super) fn network_first(declared: &[Declared]) -> Option<&str> {
    let workers = || declared.iter().filter(|machine| machine.role == "worker");
    workers()
        .find(|machine| machine.class == "mini-pc")
        .or_else(|| workers().next())
        .map(|machine| &*machine.name)
}

/// systemd-boot's own words. Its menu counts down (`timeout` of at least 1 in loader.conf; with 0 it is silent), and the
/// agent may name what the loader left in the variable `LoaderInfo`.
const LOADER: &[&str] = &["Boot in ", "systemd-boot"];

/// The disk-first machines must have come up by the boot loader of their own disk.
pub(super) fn loaders(machines: &[Machine], cycled: Option<&str>) -> Vec<String> {
    let others = machines.iter().filter(|machine| Some(machine.name()) != cycled);
    let silent = others.filter(|machine| {
        let text = machine.console().text();
        !LOADER.iter().any(|words| text.contains(words))
    });
    silent.map(|machine| format!("{}: no word of systemd-boot on its console", machine.name())).collect()
}

impl Run<'_> {
    /// The plug is pulled and put back: the machine netboots again, and must boot what is on its disk.
    pub(super) fn power_cycle(&mut self, name: &str) -> Result<Vec<String>> {
        let lan = self.lan;
        let Some(machine) = self.machines.iter_mut().find(|machine| machine.name() == name) else {
            return Ok(Vec::new());
        };
        let cut = machine.power_cut(0x6d75_7374)?;
        let mark = machine.console().mark();
        let written = machine.disk(0)?.asked().bytes_written;
        let at = clock_ms();
        machine.power_on(lan)?;
        say(&format!(
            "the plug of {name} was pulled and put back ({} unflushed writes kept, torn or lost)",
            cut.iter().map(|cut| cut.unflushed).sum::<usize>()
        ));

        self.watch(Duration::from_secs(300), |answer, _| {
            answer.machine(name).is_some_and(|machine| machine.is_ready() && since(machine, at).count() > 0)
        })?;
        let mut complaints = Vec::new();
        let Some(machine) = self.machines.iter().find(|machine| machine.name() == name) else {
            return Ok(complaints);
        };
        if machine.console().said_after(mark, "Start PXE over IPv4").is_none() {
            complaints.push(format!("{name} did not ask the network first"));
        }
        let again = self.last.machine(name).into_iter().flat_map(|machine| since(machine, at));
        let installed: Vec<&str> =
            again.map(|stage| &*stage.step).filter(|step| INSTALL.contains(step)).collect();
        if !installed.is_empty() {
            complaints.push(format!("{name} installed again: {}", installed.join(", ")));
        }
        let wrote = machine.disk(0)?.asked().bytes_written - written;
        if wrote > NO_IMAGE {
            complaints.push(format!("{name} wrote {} MB after its power cycle", wrote >> 20));
        }
        Ok(complaints)
    }

    /// Everything that Muster says of itself, as a person and as a program ask for it.
    pub(super) fn keep_answers(&self) -> Result<()> {
        let mut questions: Vec<Vec<&str>> = [
            &["status"][..],
            &["plan"],
            &["node", "list"],
            &["node", "list", "--seen"],
            &["cluster", "status"],
        ]
        .map(<[&str]>::to_vec)
        .into();
        for machine in &self.declared {
            questions.push(vec!["node", "show", &machine.name]);
            questions.push(vec!["node", "explain", &machine.name]);
        }
        for question in questions {
            self.muster.keep_answer("provisioner", &question)?;
            self.muster.keep_answer("provisioner", &[&question[..], &["-o", "json"]].concat())?;
        }
        Ok(())
    }

    /// The provisioner leaves; the agents answer for themselves.
    pub(super) fn without_provisioner(&mut self) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        match self.serve.stop_within(Duration::from_secs(10)) {
            Some(status) if status.success() => {}
            Some(status) => complaints.push(format!("`muster serve` left with {status} on SIGTERM")),
            None => complaints.push("`muster serve` did not leave".into()),
        }
        say("the provisioner is stopped");
        let started = Instant::now();
        let answer = loop {
            let answer = self.muster.status()?;
            let well =
                |machine: &Declared| answer.machine(&machine.name).is_some_and(|heard| heard.is_ready());
            // on a busy host an answer may come after the question's time, and a round may find a slow k3s
            if self.declared.iter().all(well) || started.elapsed() >= LAN_LIMIT {
                break answer;
            }
            stop::pause(Duration::from_secs(1))?;
        };
        self.muster.keep_answer("lan", &["status"])?;
        self.muster.keep_answer("lan", &["status", "-o", "json"])?;
        for machine in &self.declared {
            let code = self.muster.keep_answer("lan", &["node", "metrics", &machine.name])?;
            if code != Some(0) {
                complaints.push(format!("{} gave no metrics; see answers/", machine.name));
            }
        }
        if answer.source != "lan" {
            complaints.push(format!("without a provisioner the status came from `{}`", answer.source));
        }
        for machine in &self.declared {
            match answer.machine(&machine.name) {
                Some(heard) if heard.is_ready() => {}
                Some(heard) => complaints.push(format!("on the LAN {} says {}", machine.name, heard.doing())),
                None => complaints.push(format!("{} did not answer on the LAN", machine.name)),
            }
        }
        let heard = answer.machines.iter().filter(|machine| machine.state.is_some()).count();
        say(&format!("{heard} agents answered over the LAN"));
        self.time_lan_answers()?;
        Ok(complaints)
    }

    /// How long `muster status` takes from start to end while only the agents can answer: as a person would wait.
    fn time_lan_answers(&mut self) -> Result<()> {
        for _ in 0..LAN_QUERIES {
            let began = Instant::now();
            self.muster.ask(&["status", "--lan"], Duration::from_secs(20))?;
            self.lan_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        let all: Vec<String> = self.lan_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        say(&format!("over the LAN `muster status --lan` took {} ms", all.join(", ")));
        Ok(())
    }
}

/// The stages of boots that began after a moment.
fn since(machine: &status::Machine, at_ms: u64) -> impl Iterator<Item = &status::Stage> {
    machine.stages.iter().filter(move |stage| stage.at_unix_ms.is_some_and(|at| at >= at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, class: &str, role: &str) -> Declared {
        Declared {
            name: name.into(),
            class: class.into(),
            role: role.into(),
            mac: vec![],
            serial: None,
            sandbox: None,
        }
    }

    #[test]
    fn the_power_cycled_machine_is_a_worker_if_there_is_one() {
        let fleet = [
            machine("a", "mini-pc", "server"),
            machine("g", "rtx-host", "worker"),
            machine("w", "mini-pc", "worker"),
        ];
        assert_eq!(network_first(&fleet), Some("w"));
        assert_eq!(network_first(&fleet[..2]), Some("g"));
        assert_eq!(network_first(&fleet[..1]), None);
    }
}
