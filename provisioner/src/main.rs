//! The doorway of `muster`: parse, run, print the chain, exit code.

use clap::Parser;
use muster::cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Rust ignores SIGPIPE, so a closed pipe comes as an error and ends as success (cli::exit).
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
