//! The demo's driver against a double of `muster`, a shell script: what it does when things are *not* well. What it does when
//! they are needs the real images, and is `make demo` itself.

#![allow(clippy::unwrap_used, reason = "a test may unwrap, its helpers too")]

mod support;

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOOLS: &[&str] = &["ip", "ethtool", "dnsmasq", "tcpdump", "nft", "ss", "qemu-system-x86_64"];

/// `serve` waits for SIGTERM; `status` says what the test wrote.
const DOUBLE: &str = "#!/bin/sh
case \"$1\" in
  serve) exec sleep 1000 ;;
  status) cat \"$(dirname \"$0\")/status.json\" ;;
  *) echo \"$*\" >> \"$(dirname \"$0\")/asked\" ;;
esac
";

/// A folder with everything that the demo looks for before it starts anything, empty but for the double.
fn set_up(test: &str, status: &str) -> PathBuf {
    let folder = support::folder(test);
    let cache = folder.join("cache");
    for place in [
        "bin",
        "cache/netboot/x86_64-1",
        "cache/node/x86_64-1",
        "cache/k3s/v1.36.3+k3s1/x86_64",
        "cache/kata/4.1.0/x86_64",
    ] {
        std::fs::create_dir_all(folder.join(place)).unwrap();
    }
    std::fs::write(cache.join("netboot/x86_64-1/manifest.json"), "{}").unwrap();
    std::fs::write(cache.join("node/x86_64-1/manifest.json"), r#"{"release":"6.12","version":"7"}"#).unwrap();
    std::fs::write(cache.join("kata/4.1.0/x86_64/kata.tar.zst"), "").unwrap();
    std::fs::write(folder.join("bin/muster-agent-x86_64"), "").unwrap();
    std::fs::write(folder.join("bin/status.json"), status).unwrap();
    let double = folder.join(format!("bin/muster-{}", std::env::consts::ARCH));
    std::fs::write(&double, DOUBLE).unwrap();
    std::fs::set_permissions(&double, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn demo(folder: &Path, args: &[&str]) -> Output {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/cluster.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(["demo", "--bin", "bin", "--config", config]).args(args);
    command.current_dir(folder).env("MUSTER_CACHE", folder.join("cache")).output().unwrap()
}

#[test]
fn a_machine_that_is_not_ready_fails_the_demo_and_is_in_the_report() {
    let test = "a_machine_that_is_not_ready_fails_the_demo_and_is_in_the_report";
    if !support::can(test, true, TOOLS) {
        return;
    }
    let status = r#"{"source":"provisioner","machines":[{"name":"mini-pc-1","state":"waiting","reasons":["not admitted yet"]}]}"#;
    let folder = set_up(test, status);
    let output = demo(&folder, &["--only", "mini-pc-1,mini-pc-4", "--minutes", "0"]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("mini-pc-1 is waiting: not admitted yet; mini-pc-4 was never heard of"), "{text}");

    let asked = std::fs::read_to_string(folder.join("bin/asked")).unwrap();
    let first: Vec<&str> = asked.lines().map(|line| line.split(" --").next().unwrap()).collect();
    assert_eq!(first, ["init", "image build", "admission open"]);
    assert!(asked.contains("--kernel-release 6.12 --image-version 7"), "{asked}");

    let report: Value =
        serde_json::from_slice(&std::fs::read(folder.join("target/demo/report.json")).unwrap()).unwrap();
    let states: Vec<&str> =
        report["machines"].as_array().unwrap().iter().map(|m| m["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["waiting", "not heard of"]);
    assert_eq!(report["digests"]["capture"].as_str().unwrap().len(), 64);
    assert_eq!(report["digests"]["consoles"].as_object().unwrap().len(), 2);
    // something was found, so the disks are kept for whoever looks
    assert!(folder.join("target/demo/mini-pc-1.disk0").exists());
}

#[test]
fn a_missing_part_is_named_before_anything_is_started() {
    let folder = set_up("a_missing_part_is_named", "{}");
    std::fs::remove_dir_all(folder.join("cache/node")).unwrap();
    let output = demo(&folder, &["--only", "mini-pc-1"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no x86_64 build in") && text.contains("hint: "), "{text}");
    assert!(!folder.join("target").exists());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = support::folder("wrong_usage");
    let output = demo(&folder, &["--colour"]);
    assert_eq!(output.status.code(), Some(2));
}
