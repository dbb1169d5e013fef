//! The doorway: PID 1 boots a machine, anything else runs one command.

use muster_agent::cli::{self, Command, HELP};
use muster_agent::init::{self, coldplug};
use muster_agent::log::Log;
use muster_agent::node;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    if arguments.next().as_deref() == Some(coldplug::MODPROBE) {
        arguments.filter(|argument| !argument.starts_with('-')).for_each(|name| coldplug::modprobe(&name));
        return ExitCode::SUCCESS;
    }
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprint!("muster-agent: {error}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Detect { root } => print!("{}", cli::detected(&root)?),
        Command::Node(options) => {
            Log::to_stderr().install();
            node::run(options)?;
        }
        Command::K3sGate { root } => node::pass_gate(&root)?,
        Command::Status { root } => print!("{}", cli::last_status(&root)?),
        Command::Version => println!("muster-agent {}", env!("CARGO_PKG_VERSION")),
        Command::Help => print!("{HELP}"),
    }
    Ok(())
}
