//! The doorway of `lab`: what was typed, run it, say what went wrong, leave with a code.

use muster_lab::arguments::{Asked, HELP, parse};
use muster_lab::{demo, faults, stop, trial, up};
use std::process::ExitCode;

fn main() -> ExitCode {
    let asked = match parse(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("lab: {error:#}");
            return ExitCode::from(2);
        }
    };
    // before anything is made, so that it is also unmade
    if let Err(error) = stop::install() {
        eprintln!("lab: {error:#}");
        return ExitCode::FAILURE;
    }
    let done = match asked {
        Asked::Help => {
            print!("{HELP}");
            Ok(0)
        }
        Asked::Demo(asked) => demo::run(&asked).map(|well| u8::from(!well)),
        Asked::Faults(asked) => faults::run(&asked).map(|well| u8::from(!well)),
        Asked::Waiting(asked) => demo::waiting::run(&asked).map(|()| 0),
        Asked::Up(asked) => up::run(&asked),
        Asked::Boot(asked) => trial::run(&asked).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
