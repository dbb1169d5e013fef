//! `muster cluster`: what is recorded of etcd's membership, and the ways out that only a person may take.

use super::client::Client;
use super::exit::{Code, Failure};
use super::{Common, Output, print};
use crate::core::picture::Picture;
use crate::serve::operator_api::Named;
use crate::store::rows::EventRow;
use clap::{Args, Subcommand};
use muster_protocol::ids::NodeName;
use std::io::{IsTerminal, Write};

#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// The record, the members, and what happened
    Status {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Ways past a machine that cannot answer while the cluster is made
    Init(Init),
    /// Say that whoever holds the lock will not go on
    Unlock {
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Args)]
#[group(id = "way", required = true, multiple = false)]
pub(super) struct Ways {
    /// Do not wait for an answer of this server
    #[arg(long, value_name = "NAME")]
    without: Option<NodeName>,
    /// The disk of the server that was making the cluster is lost: begin anew
    #[arg(long, value_name = "NAME")]
    abandon: Option<NodeName>,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    way: Ways,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Debug, Args)]
pub(super) struct Confirm {
    /// The cluster's name, typed as a confirmation
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    let mut client = Client::new(common)?;
    match ask {
        Ask::Status { output } => status(&mut client, *output),
        Ask::Init(init) => {
            confirmed(&client, &init.confirm)?;
            match (&init.way.without, &init.way.abandon) {
                (Some(name), _) => client.post("/v1/cluster/without", &Named { name: name.clone() }),
                (None, Some(name)) => client.post("/v1/cluster/abandon", &Named { name: name.clone() }),
                (None, None) => Ok(()),
            }
        }
        Ask::Unlock { confirm } => {
            confirmed(&client, confirm)?;
            client.post("/v1/cluster/unlock", &())
        }
    }
}

/// The name, by option or typed.
fn confirmed(client: &Client, confirm: &Confirm) -> Result<(), Failure> {
    let name = &client.credential().trust.cluster_name;
    let typed = match &confirm.confirm {
        Some(typed) => typed.clone(),
        None if std::io::stdin().is_terminal() => {
            let mut stderr = std::io::stderr();
            write!(stderr, "this may cost data if it is wrong; type the cluster's name to go on: ")?;
            stderr.flush()?;
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            line.trim().to_string()
        }
        None => String::new(),
    };
    if typed == *name {
        return Ok(());
    }
    let error = anyhow::anyhow!("not confirmed\nhint: --confirm with the cluster's name");
    Err(Failure::new(Code::Usage, error))
}

fn status(client: &mut Client, output: Output) -> Result<(), Failure> {
    let picture: Picture = client.get("/v1/status")?;
    let events: Vec<EventRow> = client.get("/v1/events")?;
    if output == Output::Json {
        let value = serde_json::json!({ "cluster": picture.cluster, "etcd": picture.etcd, "events": events });
        return Ok(print::json(&value)?);
    }
    let cluster = &picture.cluster;
    let mut text = format!("cluster {} ({}): {}\n", cluster.name, cluster.topology, cluster.state);
    text.push_str(&match &cluster.lock {
        Some(holder) => format!("lock: {}\n", print::clean(holder)),
        None => "lock: free\n".into(),
    });
    if let Some(why) = &cluster.frozen {
        text.push_str(&format!("frozen, nothing is handed out: {}\n", print::clean(why)));
    }
    if let Some(id) = &picture.etcd.cluster_id {
        text.push_str(&format!("etcd cluster id: {id}\n"));
    }
    let member = |part: &crate::core::picture::EtcdMemberPart| {
        let leads = picture.etcd.leader.as_deref() == Some(part.name.as_str());
        let what = if part.learner {
            "learner"
        } else if leads {
            "leader"
        } else {
            "voter"
        };
        vec![part.name.clone(), part.id.clone(), what.into()]
    };
    let members: Vec<Vec<String>> = picture.etcd.members.iter().map(member).collect();
    if !members.is_empty() {
        text.push_str(&print::table(&["MEMBER", "ID", ""], &members));
    }
    let rows: Vec<Vec<String>> = events
        .iter()
        .rev()
        .take(20)
        .rev()
        .map(|event| vec![print::date(event.at_unix_ms), event.what.clone()])
        .collect();
    if !rows.is_empty() {
        text.push_str(&format!("\n{}", print::table(&["WHEN (UTC)", "EVENT"], &rows)));
    }
    Ok(print::out(&text)?)
}
