//! `lab faults`: what happens to machines in cellars, told as stories about one machine with real firmware, the real
//! provisioner and the real boot image. Each story must end well, and prints one line with figures.

// where a story happens
/// A provisioner's state that is made once and copied for each story.
mod base;
/// What lies on a disk, as seen from outside.
mod platter;
/// One provisioner, one machine, and the verbs of the stories.
mod site;

// the stories
mod cable;
mod port_4011;
mod power_cut;
mod power_cycles;
mod provisioner_killed;
mod store_lost;
mod three_disks;

// and what is left of them
mod report;

use crate::arguments::Faults;
use crate::demo::{config, parts};
use crate::lan::{Lan, Plan};
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail};
use base::Base;
use report::{Entry, Report};
use serde_json::Value;
use site::{Hardware, Site};
use std::time::Instant;

/// The machine of all stories: a server, alone in its cluster.
const MACHINE: &str = "mini-pc-1";

/// What a story has to say when it ended well.
struct Told {
    line: String,
    figures: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    Port4011,
    Cable,
    ProvisionerKilled,
    ThreeDisks,
    PowerCut,
    PowerCycles,
    StoreLost,
}

impl Story {
    /// In this order: the last three go on with one machine.
    const ALL: [Self; 7] = [
        Self::Port4011,
        Self::Cable,
        Self::ProvisionerKilled,
        Self::ThreeDisks,
        Self::PowerCut,
        Self::PowerCycles,
        Self::StoreLost,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Port4011 => "port-4011",
            Self::Cable => "cable",
            Self::ProvisionerKilled => "provisioner-killed",
            Self::ThreeDisks => "three-disks",
            Self::PowerCut => "power-cut",
            Self::PowerCycles => "power-cycles",
            Self::StoreLost => "store-lost",
        }
    }

    /// It can begin with the installed machine that another story left.
    fn goes_on(self) -> bool {
        match self {
            Self::PowerCycles | Self::StoreLost => true,
            Self::Port4011 | Self::Cable | Self::ProvisionerKilled | Self::ThreeDisks | Self::PowerCut => {
                false
            }
        }
    }

    fn hardware(self) -> Hardware {
        match self {
            Self::ThreeDisks => three_disks::hardware,
            Self::Port4011
            | Self::Cable
            | Self::ProvisionerKilled
            | Self::PowerCut
            | Self::PowerCycles
            | Self::StoreLost => |_, _, _| Ok(()),
        }
    }

    fn tell(self, site: &mut Site<'_>, base: &Base, seed: u64) -> Result<Told> {
        match self {
            Self::Port4011 => port_4011::tell(site),
            Self::Cable => cable::tell(site),
            Self::ProvisionerKilled => provisioner_killed::tell(site),
            Self::ThreeDisks => three_disks::tell(site),
            Self::PowerCut => power_cut::tell(site, seed),
            Self::PowerCycles => power_cycles::tell(site, seed),
            Self::StoreLost => store_lost::tell(site, base),
        }
    }
}

pub fn run(asked: &Faults) -> Result<bool> {
    let stories = picked(&asked.only)?;
    let folder = std::path::absolute(&asked.folder)?;
    let text = std::fs::read_to_string(&asked.config).with_context(|| asked.config.display().to_string())?;
    // everything that can be missing is looked for before anything is started
    let binary = parts::muster(&asked.bin)?;
    let builds = parts::builds(
        &asked.bin,
        &["x86_64"],
        &config::version(&text, "k3s")?,
        &config::version(&text, "kata")?,
    )?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    let seed = asked.seed.unwrap_or_else(clock_ms);
    let lan = Lan::build(&Plan::house(&folder))?;
    let began = Instant::now();
    let base = Base::make(&lan, binary, &folder, &text, builds)?;
    say(&format!("a LAN, a provisioner's state, seed {seed}; {} stories", stories.len()));

    let mut report = Report::new(seed);
    let mut kept: Option<Site<'_>> = None;
    for (at, story) in stories.iter().enumerate() {
        let entry = one(*story, &lan, &base, &mut kept, seed);
        if stop::requested() {
            bail!(stop::Stopped);
        }
        println!("{entry}");
        let well = entry.is_well();
        report.add(entry);
        let wanted = stories.get(at + 1).is_some_and(|next| next.goes_on());
        // a machine that went through a failed story proves nothing in the next
        if !(well && wanted)
            && let Some(site) = kept.take()
        {
            site.close(well && !asked.keep)?;
        }
    }
    drop(kept);
    if !asked.keep {
        base.remove()?;
    }
    report.total_s = began.elapsed().as_secs_f64();
    let file = folder.join("report.json");
    report.write(&file)?;
    println!("{}", report.summary());
    println!("look at: {}", file.display());
    println!("         {}/STORY/{MACHINE}.console, serve.log, muster.log", folder.display());
    Ok(report.is_well())
}

/// Tells one story, on the site that the one before left or on a new one.
fn one<'a>(story: Story, lan: &'a Lan, base: &Base, kept: &mut Option<Site<'a>>, seed: u64) -> Entry {
    let began = Instant::now();
    let mut tell = || -> Result<Told> {
        let mut site = match kept.take() {
            Some(site) if story.goes_on() => site,
            Some(_) | None => Site::open(lan, base, story.name(), story.hardware())?,
        };
        let told = story.tell(&mut site, base, seed);
        if told.is_err() {
            site.tell_last_lines();
        }
        *kept = Some(site);
        told
    };
    let told = tell();
    Entry::new(story.name(), began.elapsed(), told)
}

fn picked(only: &[String]) -> Result<Vec<Story>> {
    if let Some(unknown) = only.iter().find(|name| Story::ALL.iter().all(|story| story.name() != **name)) {
        let known = Story::ALL.map(Story::name).join(", ");
        bail!("no story `{unknown}`\nhint: there are {known}");
    }
    let wanted = |story: &Story| only.is_empty() || only.iter().any(|name| name == story.name());
    Ok(Story::ALL.into_iter().filter(wanted).collect())
}

fn say(text: &str) {
    println!("lab: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_told_in_their_own_order_and_an_unknown_one_is_refused() {
        let picked_two = picked(&["store-lost".into(), "power-cut".into()]).unwrap();
        assert_eq!(picked_two, [Story::PowerCut, Story::StoreLost]);
        assert_eq!(picked(&[]).unwrap().len(), 7);
        let error = picked(&["flood".into()]).unwrap_err().to_string();
        assert!(error.contains("`flood`") && error.contains("port-4011"), "{error}");
    }

    #[test]
    fn the_help_names_every_story() {
        for story in Story::ALL {
            assert!(crate::arguments::HELP.contains(story.name()), "{}", story.name());
        }
    }
}
