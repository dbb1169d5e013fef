//! `lab up` and `lab run`: the machines of a cluster on a LAN, consoles on stdout, verbs on stdin, until Ctrl-C.

use crate::arguments::Up;
use crate::fleet;
use crate::lan::{Lan, Place, Plan};
use crate::machine::{Echo, First, Machine};
use crate::trial::shell;
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail};
use std::io::BufRead;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const VERBS: &str = "\
verbs: on NAME | off NAME | cut NAME [SEED] (power) | unplug NAME | plug NAME (cable) | loss NAME PERCENT
       net-first NAME | disk-first NAME | say NAME WORDS.. (wait for them) | list | quit";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verb {
    On(String),
    Off(String),
    Cut(String, u64),
    Unplug(String),
    Plug(String),
    Loss(String, u8),
    Order(String, First),
    Say(String, String),
    List,
    Quit,
}

/// The exit code for the shell.
pub fn run(asked: &Up) -> Result<u8> {
    let folder = std::path::absolute(&asked.folder)?;
    let text = std::fs::read_to_string(&asked.config).with_context(|| asked.config.display().to_string())?;
    let all = fleet::declared(&text)?;
    let specs = all
        .iter()
        .enumerate()
        .map(|(place, machine)| fleet::spec(machine, place))
        .collect::<Result<Vec<_>>>()?;
    let chosen = fleet::pick(all, &asked.only)?;

    let lan = Lan::build(&Plan::house(&folder))?;
    let provisioner = asked.provisioner.as_ref().map(|command| shell(&lan, command, &folder)).transpose()?;
    let mut machines = Vec::new();
    let started = clock_ms();
    for spec in specs.into_iter().filter(|spec| chosen.iter().any(|machine| machine.name == spec.name)) {
        let name = spec.name.clone();
        let mut machine = Machine::new(&lan, &folder, spec)?;
        machine.echo(Echo(Arc::new(move |line| {
            println!("{:8.3} {name:12} {}", line.at_ms.saturating_sub(started) as f64 / 1000.0, line.text);
        })));
        machines.push(machine);
    }
    if !asked.off {
        machines.iter_mut().try_for_each(|machine| machine.power_on(&lan))?;
    }
    eprintln!("lab: {} machines, {} in the LAN, files in {}", machines.len(), lan.prefix(), folder.display());
    let code = if let [program, arguments @ ..] = &*asked.run {
        run_program(&lan, program, arguments)?
    } else {
        eprintln!("{VERBS}");
        obey(&lan, &mut machines)?;
        0
    };
    drop(machines);
    drop(provisioner);
    Ok(code)
}

/// Runs a program of the caller's at the provisioner's place, with our own terminal.
fn run_program(lan: &Lan, program: &std::ffi::OsStr, arguments: &[std::ffi::OsString]) -> Result<u8> {
    let mut command = lan.exec_in(Place::Provisioner, program);
    let mut child =
        command.args(arguments).stdin(Stdio::inherit()).spawn().context("starting the program")?;
    // it shares our process group, so a Ctrl-C at the terminal ends it too; after a SIGTERM to us alone it dies with the LAN
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        stop::pause(Duration::from_millis(100))?;
    }
}

fn obey(lan: &Lan, machines: &mut [Machine]) -> Result<()> {
    let lines = typed_lines();
    let mut typed_ended = false;
    loop {
        if typed_ended {
            // nobody types: stay until a signal
            match stop::pause(Duration::from_secs(3600)) {
                Ok(()) => continue,
                Err(stop::Stopped) => return Ok(()),
            }
        }
        let line = match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if stop::requested() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                typed_ended = true;
                continue;
            }
        };
        match parse(&line).and_then(|verb| verb.map(|verb| apply(&verb, lan, machines)).transpose()) {
            Ok(Some(true)) => return Ok(()),
            Ok(_) => {}
            // a typing mistake ends nothing
            Err(error) => eprintln!("lab: {error:#}"),
        }
    }
}

/// True for `quit`.
fn apply(verb: &Verb, lan: &Lan, machines: &mut [Machine]) -> Result<bool> {
    fn find<'a>(machines: &'a mut [Machine], name: &str) -> Result<&'a mut Machine> {
        machines
            .iter_mut()
            .find(|machine| machine.name() == name)
            .with_context(|| format!("no machine `{name}`"))
    }
    match verb {
        Verb::On(name) => find(machines, name)?.power_on(lan)?,
        Verb::Off(name) => find(machines, name)?.power_off(Duration::from_secs(30))?,
        Verb::Cut(name, seed) => {
            for cut in find(machines, name)?.power_cut(*seed)? {
                eprintln!("lab: {name}: {cut:?}");
            }
        }
        Verb::Unplug(name) => find(machines, name)?.cut_link(lan)?,
        Verb::Plug(name) => find(machines, name)?.plug_link(lan)?,
        Verb::Loss(name, percent) => find(machines, name)?.lose_packets(lan, *percent)?,
        Verb::Order(name, first) => find(machines, name)?.reconfigure(*first, None),
        Verb::Say(name, words) => {
            let line = find(machines, name)?.wait_console(words, Duration::from_secs(600))?;
            eprintln!("lab: {name}: {}", line.text);
        }
        Verb::List => {
            for machine in machines.iter() {
                let power = if machine.is_on() { "on" } else { "off" };
                let disk = machine.disk(0).map(|disk| (disk.asked(), disk.unflushed())).unwrap_or_default();
                eprintln!("{:12} {:3} {:?} unflushed {}", machine.name(), power, disk.0, disk.1);
            }
        }
        Verb::Quit => return Ok(true),
    }
    Ok(false)
}

fn parse(line: &str) -> Result<Option<Verb>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = |name: &str| name.to_owned();
    Ok(Some(match &*words {
        [] => return Ok(None),
        ["on", m] => Verb::On(name(m)),
        ["off", m] => Verb::Off(name(m)),
        ["cut", m] => Verb::Cut(name(m), clock_ms()),
        ["cut", m, seed] => Verb::Cut(name(m), seed.parse().context("seed")?),
        ["unplug", m] => Verb::Unplug(name(m)),
        ["plug", m] => Verb::Plug(name(m)),
        ["loss", m, percent] => Verb::Loss(name(m), percent.parse().context("percent")?),
        ["net-first", m] => Verb::Order(name(m), First::Network),
        ["disk-first", m] => Verb::Order(name(m), First::Disk),
        ["say", m, words @ ..] if !words.is_empty() => Verb::Say(name(m), words.join(" ")),
        ["list"] => Verb::List,
        ["quit"] => Verb::Quit,
        _ => bail!("`{line}`?\n{VERBS}"),
    }))
}

/// Stdin by lines; the thread ends with the process, a read of stdin cannot be called off.
fn typed_lines() -> Receiver<String> {
    let (send, receive) = channel();
    let _ = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_and_mistakes_are_answered_with_the_list() {
        assert_eq!(parse("loss mini-pc-1 20").unwrap(), Some(Verb::Loss("mini-pc-1".into(), 20)));
        assert_eq!(parse("say a muster: step").unwrap(), Some(Verb::Say("a".into(), "muster: step".into())));
        assert_eq!(parse("  ").unwrap(), None);
        assert!(parse("explode a").unwrap_err().to_string().contains("unplug NAME"));
    }
}
