//! The command line: one file per noun. stdout is for data, stderr for people.

/// `muster admission`.
mod admission;
/// `muster check`.
mod check;
/// Asking the provisioner as an operator.
mod client;
/// `muster cluster`.
mod cluster;
/// The operator's credential on this computer.
mod credential;
/// What a command ends with.
pub mod exit;
/// `muster image`.
mod image;
/// `muster init`.
mod init;
/// Asking the agents themselves.
mod lan;
/// `muster node`.
mod node;
/// `muster plan`.
mod plan;
/// What people see.
mod print;
/// `muster serve`.
mod serve;
/// `muster status`.
mod status;

use crate::store::state_dir;
use clap::{Args, Parser, Subcommand, ValueEnum};
use exit::Failure;
use std::path::PathBuf;

/// From power-on to a healthy k3s node, with nobody at the keyboard.
#[derive(Debug, Parser)]
#[command(name = "muster", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Where things are.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The configuration [default: ./cluster.toml, then /etc/muster/cluster.toml]
    #[arg(long, global = true, env = "MUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The provisioner's state directory
    #[arg(long, global = true, env = "MUSTER_STATE", value_name = "DIR", default_value = state_dir::DEFAULT)]
    state: PathBuf,
    /// The provisioner to ask, as ADDRESS:PORT [default: the one asked last]
    #[arg(long, global = true, env = "MUSTER_SERVER", value_name = "ADDRESS")]
    server: Option<String>,
    /// Which cluster's credential to use, where this computer has several
    #[arg(long, global = true, env = "MUSTER_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the keys, the store and the first operator of a new cluster
    Init,
    /// Check cluster.toml
    Check,
    /// Be the provisioner: answer machines and operators until told to stop
    Serve,
    /// Show every machine, from the provisioner or, without one, from the LAN
    Status(status::Ask),
    /// Show what each machine would do next, its disks and their plan ids
    Plan(plan::Ask),
    /// Machines
    #[command(subcommand)]
    Node(node::Ask),
    /// The window in which the first key of each declared machine is taken unseen
    #[command(subcommand)]
    Admission(admission::Ask),
    /// Boot images, node images, Kata and k3s
    #[command(subcommand)]
    Image(image::Ask),
    /// The k3s cluster
    #[command(subcommand)]
    Cluster(cluster::Ask),
}

/// Does what was asked.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    match command {
        Command::Init => init::run(&common),
        Command::Check => check::run(&common),
        Command::Serve => serve::run(&common),
        Command::Status(ask) => status::run(&common, &ask),
        Command::Plan(ask) => plan::run(&common, &ask),
        Command::Node(ask) => node::run(&common, &ask),
        Command::Admission(ask) => admission::run(&common, &ask),
        Command::Image(ask) => image::run(&common, &ask),
        Command::Cluster(ask) => cluster::run(&common, &ask),
    }
}
