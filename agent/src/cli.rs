//! The agent's command line. Its true interface is being PID 1; these commands are for technicians and tests.

use crate::detect;
use crate::node::STATUS;
use crate::node::service::Options;
use crate::state::{Root, StateError};
use muster_protocol::class::{Class, classify};
use muster_protocol::inventory::Inventory;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;

/// Shown on stdout for `--help`, on stderr for a wrong line.
pub const HELP: &str = "\
usage: muster-agent COMMAND

  detect [--root DIR]   what this machine is made of, as JSON, and its class
  node                  the installed node's service, run by systemd
  k3s-gate              may k3s start, and as what: run before it, exit code 1 is no
  status                what the node's service saw last, as JSON
  version               the agent's version
  help                  this text

For tests and the lab, `node`, `k3s-gate` and `status` take --root DIR (or MUSTER_ROOT=DIR) instead of `/`; `node` also
--boot FILE (what PID 1 left) and --provisioner ADDRESS:PORT (one to try before any is heard).

As PID 1 of the boot image it takes no arguments.
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Detect { root: PathBuf },
    Node(Options),
    K3sGate { root: Root },
    Status { root: Root },
    Version,
    Help,
}

/// Reads the arguments behind the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command = None;
    let mut root = None;
    let mut boot = None;
    let mut provisioner = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("root") if takes_root(command.as_deref()) => root = Some(PathBuf::from(parser.value()?)),
            Long("boot") if command.as_deref() == Some("node") => boot = Some(PathBuf::from(parser.value()?)),
            Long("provisioner") if command.as_deref() == Some("node") => {
                provisioner = Some(parser.value()?.parse()?)
            }
            Value(word) if command.is_none() => command = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    match command.as_deref() {
        Some("detect") => Ok(Command::Detect { root: root.unwrap_or_else(|| "/".into()) }),
        Some("node") => Ok(Command::Node(Options { root: node_root(root), boot, provisioner })),
        Some("k3s-gate") => Ok(Command::K3sGate { root: node_root(root) }),
        Some("status") => Ok(Command::Status { root: node_root(root) }),
        Some("version") => Ok(Command::Version),
        Some("help") => Ok(Command::Help),
        Some(other) => Err(format!("unknown command `{other}`").into()),
        None => Err("no command".into()),
    }
}

fn takes_root(command: Option<&str>) -> bool {
    matches!(command, Some("detect" | "node" | "k3s-gate" | "status"))
}

/// The unit files give no arguments, so the lab says it through the environment.
fn node_root(given: Option<PathBuf>) -> Root {
    let from_environment = || std::env::var_os("MUSTER_ROOT").map(PathBuf::from);
    Root::new(given.or_else(from_environment).unwrap_or_else(|| "/".into()))
}

/// What the node's service saw last.
pub fn last_status(root: &Root) -> Result<String, StateError> {
    let found = root.read(STATUS)?;
    let hint = "the node service is not running: systemctl status muster-agent";
    let found = found.ok_or_else(|| StateError::Missing { path: root.path(STATUS), hint })?;
    Ok(String::from_utf8_lossy(&found).into_owned() + "\n")
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
        assert_eq!(parsed("k3s-gate --root /x"), Ok(Command::K3sGate { root: Root::new("/x") }));
        let options = Options {
            root: Root::new("/x"),
            boot: Some("/b".into()),
            provisioner: Some(([10, 0, 0, 1], 7480).into()),
        };
        let line = "node --root /x --boot /b --provisioner 10.0.0.1:7480";
        assert_eq!(parsed(line), Ok(Command::Node(options)));
        for line in
            ["", "dance", "detect more", "--root /x detect", "version --root /x", "k3s-gate --boot /b"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
