//! `lab waiting`: from the power button to `waiting` in the provisioner's status, by the host's clock, a few times.
//!
//! One x86-64 machine with an empty disk, and nobody has opened the admission: so it netboots, says who it is, and waits.

use super::muster::Muster;
use super::{config, parts, say, status};
use crate::arguments::Waiting;
use crate::fleet;
use crate::lan::{Lan, Plan};
use crate::machine::{Machine, Spec};
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

const FOLDER: &str = "target/waiting";
const LIMIT: Duration = Duration::from_secs(180);
/// Each question costs the host some of what the machine would use.
const EVERY: Duration = Duration::from_millis(200);

/// Prints a line for each run and `median N.N s` at last.
pub fn run(asked: &Waiting) -> Result<()> {
    let folder = std::path::absolute(FOLDER)?;
    let text = std::fs::read_to_string(&asked.config).with_context(|| asked.config.display().to_string())?;
    let declared = fleet::declared(&text)?;
    let first = declared.first().context("no machine is declared")?;
    let spec = fleet::spec(first, 0)?;
    let binary = parts::muster(&asked.bin)?;
    let build = parts::boot_image(&asked.bin, spec.arch.word())?;
    let mut took = Vec::new();
    for round in 1..=asked.runs {
        let ms = once(&folder, &binary, &build, &text, &spec).with_context(|| format!("run {round}"))?;
        println!("run {round}: {:.1} s", ms as f64 / 1000.0);
        took.push(ms);
    }
    took.sort_unstable();
    println!("median {:.1} s", took.get(took.len() / 2).copied().unwrap_or_default() as f64 / 1000.0);
    Ok(())
}

/// A provisioner that has never seen a machine, and a machine that has never been on.
fn once(folder: &Path, binary: &Path, build: &[String], text: &str, spec: &Spec) -> Result<u64> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    // Without a capture: this is about time.
    let lan = Lan::build(&Plan { capture: None, ..Plan::house(folder) })?;
    let muster = Muster { lan: &lan, binary: binary.to_owned(), folder: folder.to_owned() };
    let name = spec.name.clone();
    std::fs::write(muster.config(), config::lab_copy(text, std::slice::from_ref(&name))?)?;
    muster.run(&["init"], Duration::from_secs(60))?;
    muster.run(build, Duration::from_secs(120))?;
    let serve = muster.serve()?;
    muster.wait_for_answer(&serve, Duration::from_secs(30))?;
    let mut machine = Machine::new(&lan, folder, spec.clone())?;
    let began = clock_ms();
    machine.power_on(&lan)?;
    loop {
        stop::pause(EVERY)?;
        let answer = muster.status()?;
        let ms = clock_ms().saturating_sub(began);
        let seen = answer.machine(&name);
        if seen.is_some_and(|seen| seen.state.as_deref() == Some("waiting")) {
            machine.power_off(Duration::ZERO)?;
            say(&stages(seen, began, ms));
            return Ok(ms);
        }
        if serve.ended().is_some() || !machine.is_on() || ms > LIMIT.as_millis() as u64 {
            let doing = seen.map_or("never heard of".into(), status::Machine::doing);
            bail!("{name} is not waiting after {} s, it is {doing}", ms / 1000);
        }
    }
}

/// Where the time went: the moments that the provisioner and the agent noted, since power-on.
fn stages(seen: Option<&status::Machine>, began: u64, ms: u64) -> String {
    let stages = seen.into_iter().flat_map(|machine| &machine.stages);
    let shown: Vec<String> = stages
        .filter_map(|stage| {
            let at = stage.at_unix_ms?.saturating_sub(began) as f64 / 1000.0;
            Some(format!("{} at {at:.1} for {:.1}", stage.step, stage.ms as f64 / 1000.0))
        })
        .collect();
    format!("{}, waiting at {:.1}", shown.join(", "), ms as f64 / 1000.0)
}
