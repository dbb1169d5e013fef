//! The agent's command line. Its true interface is being PID 1; these commands are for technicians and tests.

use crate::detect;
use muster_protocol::class::{Class, classify};
use muster_protocol::inventory::Inventory;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;

/// Shown on stdout for `--help`, on stderr for a wrong line.
pub const HELP: &str = "\
usage: muster-agent COMMAND

  detect [--root DIR]   what this machine is made of, as JSON, and its class
  version               the agent's version
  help                  this text

As PID 1 of the boot image it takes no arguments.
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Detect { root: PathBuf },
    Version,
    Help,
}

/// Reads the arguments behind the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command = None;
    let mut root = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("root") if command.as_deref() == Some("detect") => {
                root = Some(PathBuf::from(parser.value()?))
            }
            Value(word) if command.is_none() => command = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    match command.as_deref() {
        Some("detect") => Ok(Command::Detect { root: root.unwrap_or_else(|| "/".into()) }),
        Some("version") => Ok(Command::Version),
        Some("help") => Ok(Command::Help),
        Some(other) => Err(format!("unknown command `{other}`").into()),
        None => Err("no command".into()),
    }
}

/// What `detect` prints.
#[derive(Serialize)]
struct Detected {
    class: Class,
    #[serde(flatten)]
    inventory: Inventory,
}

/// The JSON of `detect`, with a newline at its end.
pub fn detected(root: &std::path::Path) -> Result<String, serde_json::Error> {
    let inventory = detect::inventory(root);
    let detected = Detected { class: classify(&inventory, &[]), inventory };
    Ok(serde_json::to_string_pretty(&detected)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_are_understood_and_nothing_else() {
        assert_eq!(parsed("detect --root /x"), Ok(Command::Detect { root: "/x".into() }));
        assert_eq!(parsed("detect"), Ok(Command::Detect { root: "/".into() }));
        assert_eq!(parsed("--help"), Ok(Command::Help));
        for line in ["", "dance", "detect more", "--root /x detect", "version --root /x"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
