//! `muster node`: list, show, explain, metrics, approve, install.

use super::client::Client;
use super::credential::Credential;
use super::exit::{Code, Failure};
use super::status::now_unix_ms;
use super::{Common, Output, lan, plan, print};
use crate::core::explain::Explanation;
use crate::core::picture::{MachinePart, Picture};
use crate::core::plan::PlanPart;
use crate::serve::operator_api::{Approve, Install, Installed, StrangerPart};
use clap::{Args, Subcommand};
use muster_protocol::ids::NodeName;
use muster_protocol::keys::Fingerprint;
use muster_protocol::order::PlanId;

#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Declared machines, or what else asks to boot here
    List(List),
    /// All that is known of one machine
    Show(Named),
    /// Why a machine did not boot, and what to look at
    Explain(Named),
    /// A node's own metrics, in Prometheus' text format, asked of its agent on the LAN
    Metrics { name: NodeName },
    /// Admit a key, after comparing the fingerprint on the machine's console
    Approve(Approval),
    /// Order an install, in place of whatever order there is
    Install(Installation),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Machines that netboot and are not declared, newest first
    #[arg(long)]
    seen: bool,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    name: NodeName,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Approval {
    name: NodeName,
    /// As the console shows it: ABCD-EFGH-IJKL-MNOP
    fingerprint: Fingerprint,
    /// Also when the machine is installed under another key, which is lost for good
    #[arg(long)]
    replace_key: bool,
}

#[derive(Debug, Args)]
pub(super) struct Installation {
    name: NodeName,
    /// Lose what is on the disk; the id is in `muster plan` and void once the disk changes
    #[arg(long, value_name = "PLAN-ID")]
    wipe: Option<PlanId>,
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    let client = || Client::new(common);
    match ask {
        Ask::List(list) if list.seen => seen(&mut client()?, list.output),
        Ask::List(list) => list_machines(&mut client()?, list.output),
        Ask::Show(named) => show(&mut client()?, named),
        Ask::Explain(named) => explain(&mut client()?, named),
        // The provisioner need not run for this.
        Ask::Metrics { name } => metrics(&Credential::load(common)?, name),
        Ask::Approve(approval) => {
            let body = Approve { key: approval.fingerprint, replace: approval.replace_key };
            let () = client()?.post(&format!("/v1/nodes/{}/approve", approval.name), &body)?;
            print::note(&format!("key {} is admitted as {}", approval.fingerprint, approval.name));
            Ok(())
        }
        Ask::Install(installation) => {
            let body = Install { plan: installation.wipe };
            let done: Installed =
                client()?.post(&format!("/v1/nodes/{}/install", installation.name), &body)?;
            print::out(&format!("{}\n", done.order))?;
            print::note(&format!(
                "order {} for {}: it is carried out at the machine's next network boot",
                done.order, installation.name
            ));
            Ok(())
        }
    }
}

fn seen(client: &mut Client, output: Output) -> Result<(), Failure> {
    let strangers: Vec<StrangerPart> = client.get("/v1/seen")?;
    match output {
        Output::Json => print::json(&strangers)?,
        Output::Table => {
            let now = now_unix_ms();
            let row = |part: &StrangerPart| {
                vec![
                    part.mac.clone(),
                    part.firmware.clone(),
                    part.times.to_string(),
                    print::ago(now, part.last_unix_ms),
                ]
            };
            let rows: Vec<Vec<String>> = strangers.iter().map(row).collect();
            print::out(&print::table(&["MAC", "FIRMWARE", "TIMES", "LAST"], &rows))?;
        }
    }
    Ok(())
}

fn list_machines(client: &mut Client, output: Output) -> Result<(), Failure> {
    let picture: Picture = client.get("/v1/status")?;
    if output == Output::Json {
        return Ok(print::json(&picture.machines)?);
    }
    let now = now_unix_ms();
    let mut rows = Vec::new();
    for machine in &picture.machines {
        let seen = machine.last_seen_unix_ms.map_or_else(|| "never".into(), |at| print::ago(now, at));
        let key = machine.key.clone().unwrap_or_else(|| "-".into());
        rows.push(vec![machine.name.clone(), machine.state.clone(), key, "admitted".into(), seen]);
        if machine.key.is_none() {
            rows.last_mut().into_iter().for_each(|row| row[3] = "-".into());
        }
        for pending in machine.pending.iter().filter(|pending| Some(&pending.key) != machine.key.as_ref()) {
            let seen = print::ago(now, pending.last_unix_ms);
            rows.push(vec![machine.name.clone(), String::new(), pending.key.clone(), "asks".into(), seen]);
        }
    }
    Ok(print::out(&print::table(&["NAME", "STATE", "KEY", "", "SEEN"], &rows))?)
}

fn not_declared(name: &NodeName) -> Failure {
    Failure::new(
        Code::NotFound,
        anyhow::anyhow!("no machine `{name}` is declared in cluster.toml\nhint: muster node list"),
    )
}

fn show(client: &mut Client, named: &Named) -> Result<(), Failure> {
    let picture: Picture = client.get("/v1/status")?;
    let machine = picture.machines.iter().find(|machine| machine.name == named.name.as_str());
    let machine = machine.ok_or_else(|| not_declared(&named.name))?;
    if named.output == Output::Json {
        return Ok(print::json(machine)?);
    }
    let plans: Vec<PlanPart> = client.get("/v1/plan")?;
    let plan = plans.iter().find(|plan| plan.name == named.name.as_str());
    Ok(print::out(&details(machine, plan))?)
}

fn details(machine: &MachinePart, plan: Option<&PlanPart>) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let mut rows = vec![
        ["state".to_string(), machine.state.clone()],
        ["role".into(), or(&machine.role)],
        ["class".into(), format!("{} ({})", or(&machine.class.declared), or(&machine.class.fit))],
        ["address".into(), or(&machine.address)],
        ["key".into(), or(&machine.key)],
        ["agent".into(), or(&machine.versions.agent)],
        ["kernel".into(), or(&machine.versions.kernel)],
        ["k3s".into(), or(&machine.versions.k3s)],
        ["kata".into(), or(&machine.versions.kata)],
    ];
    rows.extend(
        machine
            .order
            .iter()
            .map(|order| ["order".into(), format!("{} {} ({})", order.number, order.state, order.disk)]),
    );
    rows.extend(machine.reasons.iter().map(|reason| ["why".into(), reason.clone()]));
    rows.extend(
        machine
            .pending
            .iter()
            .map(|pending| ["asks".into(), format!("{} from {}", pending.key, pending.mac)]),
    );
    rows.extend(machine.stand_ins.iter().map(|what| ["stand-in".into(), what.clone()]));
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    let mut text = print::table(&["NAME", &print::clean(&machine.name)], &rows);
    if let Some(plan) = plan {
        text.push_str(&format!("\n{}", plan::text(plan)));
    }
    if !machine.stages.is_empty() {
        let row = |stage: &crate::store::rows::StageRow| {
            let bytes = stage.bytes.map_or_else(String::new, print::bytes);
            vec![print::date(stage.at_unix_ms), stage.step.clone(), format!("{} ms", stage.ms), bytes]
        };
        let rows: Vec<Vec<String>> = machine.stages.iter().map(row).collect();
        text.push_str(&format!("\n{}", print::table(&["WHEN (UTC)", "STAGE", "TOOK", "BYTES"], &rows)));
    }
    text
}

fn metrics(credential: &Credential, name: &NodeName) -> Result<(), Failure> {
    let roster = credential.known_roster()?;
    let Some(member) = roster.nodes.iter().find(|member| member.name == *name) else {
        let unknown = anyhow::anyhow!(
            "no node `{name}` is in the roster that this computer keeps\nhint: a node is in it once its key is admitted; `muster node list` asks the provisioner"
        );
        return Err(Failure::new(Code::NotFound, unknown));
    };
    let Some(response) = lan::get(credential, &roster, member, "/metrics")? else {
        let silent = anyhow::anyhow!(
            "the agent of `{name}` does not answer on this LAN\nhint: `muster status --lan` shows who does"
        );
        return Err(Failure::new(Code::TimedOut, silent));
    };
    let text = String::from_utf8_lossy(&response.body);
    if response.status != 200 {
        return Err(anyhow::anyhow!("the agent of `{name}` says: {}", print::clean(text.trim_end())).into());
    }
    Ok(print::out(&format!("{}\n", print::clean_lines(&text)))?)
}

/// Ends with 6 when something was found to be in the way.
fn explain(client: &mut Client, named: &Named) -> Result<(), Failure> {
    let answer: Explanation = client.get(&format!("/v1/nodes/{}/explain", named.name))?;
    if named.output == Output::Json {
        print::json(&answer)?;
    } else {
        let mut text = format!("{}: {}\n", answer.name, print::clean(&answer.verdict));
        answer.next.iter().for_each(|next| text.push_str(&format!("  - {}\n", print::clean(next))));
        let rows: Vec<Vec<String>> = answer
            .events
            .iter()
            .rev()
            .take(20)
            .rev()
            .map(|event| vec![print::date(event.at_unix_ms), event.what.clone()])
            .collect();
        if !rows.is_empty() {
            text.push_str(&format!("\n{}", print::table(&["WHEN (UTC)", "EVENT"], &rows)));
        }
        print::out(&text)?;
    }
    if answer.next == ["nothing is missing"] { Ok(()) } else { Err(Failure::findings()) }
}
