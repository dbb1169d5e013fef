//! `muster plan`: what each machine would do next, its disks and their plan ids.

use super::client::Client;
use super::exit::{Code, Failure};
use super::{Common, Output, print};
use crate::core::plan::{DiskPart, PlanPart};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Ask {
    /// Only this machine
    node: Option<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    let mut plans: Vec<PlanPart> = Client::new(common)?.get("/v1/plan")?;
    if let Some(name) = &ask.node {
        plans.retain(|plan| plan.name == *name);
        if plans.is_empty() {
            let error =
                anyhow::anyhow!("no machine `{name}` is declared in cluster.toml\nhint: muster node list");
            return Err(Failure::new(Code::NotFound, error));
        }
    }
    match ask.output {
        Output::Json => print::json(&plans)?,
        Output::Table => print::out(&plans.iter().map(text).collect::<String>())?,
    }
    Ok(())
}

pub(super) fn text(plan: &PlanPart) -> String {
    let mut text = format!("{} ({}, {}): {}\n", plan.name, plan.role, plan.class, print::clean(&plan.next));
    let rows: Vec<Vec<String>> = plan.disks.iter().map(row).collect();
    if !rows.is_empty() {
        let table = print::table(&["", "DISK", "MODEL", "SERIAL", "SIZE", "PLAN ID", "ON IT"], &rows);
        table.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

fn row(disk: &DiskPart) -> Vec<String> {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let on_it = match disk.empty {
        None => "not looked at".into(),
        Some(true) => "empty".into(),
        Some(false) => disk.found.join(", "),
    };
    vec![
        if disk.chosen { "*" } else { "" }.into(),
        disk.name.clone(),
        or(&disk.model),
        or(&disk.serial.clone().or_else(|| disk.wwn.clone())),
        print::bytes(disk.size_bytes),
        or(&disk.plan_id),
        on_it,
    ]
}
