//! `muster status`: every machine, from the provisioner or, when that does not answer, from the agents themselves.

use super::client::Client;
use super::credential::Credential;
use super::exit::{Code, Failure};
use super::{Common, Output, lan, print};
use crate::core::picture::{MachinePart, Picture};
use clap::Args;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The LAN is asked when the provisioner has not answered within this.
const PATIENCE: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Ask {
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Go on showing it, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Ask the agents, not the provisioner
    #[arg(long)]
    lan: bool,
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    let full = ask.output == Output::Json;
    if !ask.watch {
        return show(&picture(common, ask.lan, full)?, ask.output);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut shown = String::new();
    loop {
        match picture(common, ask.lan, full) {
            Ok(picture) if full => print::out(&format!("{}\n", serde_json::to_string(&picture)?))?,
            Ok(picture) => {
                let text = text(&picture);
                if std::io::stdout().is_terminal() {
                    print::out(&format!("\x1b[H\x1b[2J{text}"))?;
                } else if text != shown {
                    print::out(&format!("{text}\n"))?;
                }
                shown = text;
            }
            // It may come back; whoever watches decides how long to wait.
            Err(failure) if failure.code == Code::Failed || failure.code == Code::TimedOut => {
                if !failure.say() {
                    return Ok(());
                }
            }
            Err(failure) => return Err(failure),
        }
        runtime.block_on(tokio::time::sleep(EVERY));
    }
}

fn show(picture: &Picture, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => print::json(picture)?,
        Output::Table => print::out(&text(picture))?,
    }
    Ok(())
}

/// `full` also asks each agent for its whole status where the LAN answers.
pub(super) fn picture(common: &Common, only_lan: bool, full: bool) -> Result<Picture, Failure> {
    let provisioner = match only_lan {
        true => None,
        false => Some(Client::new(common)?.get_soon("/v1/status", PATIENCE)),
    };
    match provisioner {
        Some(Ok(picture)) => Ok(picture),
        Some(Err(failure)) if failure.code != Code::Failed && failure.code != Code::TimedOut => Err(failure),
        Some(Err(failure)) => {
            let credential = Credential::load(common)?;
            // Without a roster nobody knows whom to believe.
            let Some(roster) = credential.roster().filter(|roster| !roster.nodes.is_empty()) else {
                return Err(failure);
            };
            print::note("the provisioner does not answer: asking the agents on the LAN");
            Ok(lan::picture(&credential, &roster, full)?)
        }
        None => {
            let credential = Credential::load(common)?;
            Ok(lan::picture(&credential, &credential.known_roster()?, full)?)
        }
    }
}

pub(super) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn text(picture: &Picture) -> String {
    let mut text = head(picture);
    let rows: Vec<Vec<String>> = picture.machines.iter().map(row).collect();
    text.push_str(&paint(&print::table(
        &["NAME", "ROLE", "CLASS", "ARCH", "ADDRESS", "STATE", "STEP", "WHY"],
        &rows,
    )));
    if !picture.etcd.members.is_empty() {
        let member = |part: &crate::core::picture::EtcdMemberPart| {
            let leads = picture.etcd.leader.as_deref() == Some(part.name.as_str());
            let what = if leads {
                " (leader)"
            } else if part.learner {
                " (learner)"
            } else {
                ""
            };
            format!("{}{what}", part.name)
        };
        let members: Vec<String> = picture.etcd.members.iter().map(member).collect();
        text.push_str(&format!("etcd: {}\n", print::clean(&members.join(", "))));
    }
    for stand_in in &picture.stand_ins {
        text.push_str(&format!("stand-in: {}\n", print::clean(stand_in)));
    }
    text
}

fn head(picture: &Picture) -> String {
    let cluster = &picture.cluster;
    let mut text = format!("cluster {}", print::clean(&cluster.name));
    if picture.source == "lan" {
        text.push_str(", asked on the LAN: the provisioner does not answer\n");
        return text;
    }
    text.push_str(&format!(" ({}): {}", cluster.topology, cluster.state));
    if let Some(holder) = &cluster.lock {
        text.push_str(&format!(", {} is changing it", print::clean(holder)));
    }
    text.push('\n');
    if let Some(why) = &cluster.frozen {
        text.push_str(&format!("frozen, nothing is handed out: {}\n", print::clean(why)));
    }
    if let Some(until) = picture.admission.until_unix_ms.filter(|_| picture.admission.open) {
        text.push_str(&format!("admission window open until {} UTC\n", print::date(until)));
    }
    text
}

fn row(machine: &MachinePart) -> Vec<String> {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let class = match (&machine.class.declared, &machine.class.fit) {
        (Some(declared), Some(fit)) if fit.contains("not detected") => format!("{declared}?"),
        (declared, _) => or(declared),
    };
    let step = machine.step.as_ref().map_or_else(String::new, |step| match step.total {
        0 => step.step.clone(),
        total => format!("{} {} %", step.step, step.done.min(total) * 100 / total),
    });
    let more = match machine.reasons.len() {
        0 | 1 => String::new(),
        n => format!(" (+{})", n - 1),
    };
    let why = machine.reasons.first().map(|reason| format!("{reason}{more}")).unwrap_or_default();
    vec![
        machine.name.clone(),
        or(&machine.role),
        class,
        or(&machine.architecture),
        or(&machine.address),
        machine.state.clone(),
        step,
        why,
    ]
}

/// Colour repeats what the word says.
fn paint(table: &str) -> String {
    if !print::coloured() {
        return table.into();
    }
    let colour = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let has = |word: &str| words.get(5).is_some_and(|state| *state == word);
        if has("ready") {
            "32"
        } else if has("failed") || has("degraded") || has("silent") {
            "31"
        } else {
            ""
        }
    };
    let painted = |line: &str| match colour(line) {
        "" => format!("{line}\n"),
        code => format!("\x1b[{code}m{line}\x1b[0m\n"),
    };
    table.lines().map(painted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::picture::ClusterPart;
    use muster_protocol::status::Progress;

    #[test]
    fn the_table_shows_what_a_person_needs() {
        let machine = MachinePart {
            name: "mini-pc-1".into(),
            role: Some("server".into()),
            state: "installing".into(),
            step: Some(Progress { step: "write".into(), done: 50, total: 200 }),
            reasons: vec!["first".into(), "second\x1b[2J".into()],
            ..MachinePart::default()
        };
        let cluster = ClusterPart {
            name: "lab".into(),
            topology: "ha".into(),
            state: "none".into(),
            ..ClusterPart::default()
        };
        let picture = Picture { cluster, machines: vec![machine], ..Picture::default() };
        let text = text(&picture);
        assert!(text.contains("cluster lab (ha): none"), "{text}");
        assert!(text.contains("write 25 %  first (+1)"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
