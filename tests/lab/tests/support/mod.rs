//! What the integration tests share: a folder of their own, and a reason to skip that is printed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// False, with the reason on stderr, when a test cannot run here.
pub(crate) fn can(test: &str, root: bool, tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| !found(tool));
    let why = match missing {
        _ if root && !nix::unistd::geteuid().is_root() => "not root".to_owned(),
        Some(tool) => format!("no `{tool}` here"),
        None => return true,
    };
    eprintln!("SKIP {test}: {why}");
    false
}

fn found(tool: &str) -> bool {
    let script = format!("command -v {tool}");
    Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// An empty folder, different for each test.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
