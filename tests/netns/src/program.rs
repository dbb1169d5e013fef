//! Programs: whether they can do their work here, and what they say.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Whether namespaces can be made here, and these tools are there; says why not.
pub fn able(tools: &[&str]) -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root for network namespaces");
        return false;
    }
    for tool in ["ip"].iter().chain(tools) {
        if !on_path(tool) {
            println!("SKIP: needs `{tool}`");
            return false;
        }
    }
    true
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(tool).is_file())
}

/// Runs a program to its end: what it printed; when it fails, that and its complaints are the error.
pub fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}{}", output.status, complaint.trim());
    Ok(said)
}

/// The same for tests, which end where their expectation does.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    match said(command) {
        Ok(said) => said,
        Err(error) => panic!("{error:#}"),
    }
}
