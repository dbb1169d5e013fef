//! The real binary: exit codes, messages, what goes where.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::process::{Command, Output, Stdio};
use tempfile::{TempDir, tempdir};

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster.toml");
        std::fs::copy(example, folder.path().join("cluster.toml")).unwrap();
        Self(folder)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .env("MUSTER_STATE", self.0.path().join("state"))
            .env("XDG_STATE_HOME", self.0.path().join("xdg"))
            // A port on which nobody listens, so that nothing outside the test answers.
            .env("MUSTER_SERVER", "127.0.0.1:1");
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[test]
fn check_accepts_the_example_and_shows_every_fault_of_another() {
    let home = Home::new();
    let (code, out, err) = home.run(&["check"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("7 machines, 3 of them servers"), "{out}");
    let text = std::fs::read_to_string(home.0.path().join("cluster.toml")).unwrap();
    std::fs::write(
        home.0.path().join("cluster.toml"),
        text.replace("role = \"worker\"", "rolle = \"worker\""),
    )
    .unwrap();
    let (code, out, err) = home.run(&["check"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("unknown key `rolle`")
            && err.contains("did you mean `role`?")
            && err.contains("cluster.toml:"),
        "{err}"
    );
}

#[test]
fn a_missing_configuration_says_where_it_was_looked_for() {
    let home = Home::new();
    std::fs::remove_file(home.0.path().join("cluster.toml")).unwrap();
    if std::path::Path::new("/etc/muster/cluster.toml").exists() {
        eprintln!("SKIP: this host has /etc/muster/cluster.toml");
        return;
    }
    let (code, _, err) = home.run(&["check"]);
    assert_eq!(code, 1);
    assert!(err.contains("/etc/muster") && err.contains("hint: "), "{err}");
}

#[test]
fn init_makes_private_keys_once() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let (code, out, err) = home.run(&["init"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.trim().len(), 32, "the cluster's id is the data: {out}");
    assert!(err.contains("offline") && err.contains("muster serve"), "{err}");
    for file in [
        "state/keys/root.key",
        "state/keys/online.key",
        "state/keys/recovery.key",
        "xdg/muster/sharpi/operator.key",
    ] {
        let mode = std::fs::metadata(home.0.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        let key = std::fs::read_to_string(home.0.path().join(file)).unwrap();
        assert!(!err.contains(key.trim()) && !out.contains(key.trim()), "{file} is shown");
    }
    let before = std::fs::read(home.0.path().join("state/trust")).unwrap();
    let (code, _, err) = home.run(&["init"]);
    assert_eq!(code, 1);
    assert!(err.contains("already"), "{err}");
    std::fs::remove_dir_all(home.0.path().join("xdg")).unwrap();
    let (code, _, err) = home.run(&["init"]);
    assert_eq!(code, 1);
    assert!(err.contains("left as it is"), "{err}");
    assert_eq!(std::fs::read(home.0.path().join("state/trust")).unwrap(), before);
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let home = Home::new();
    assert_eq!(home.run(&["no-such-command"]).0, 2);
    assert_eq!(home.run(&["node", "show", "NOT_A_NAME"]).0, 2);
    assert_eq!(home.run(&["admission", "open", "--for", "soon"]).0, 2);
    assert_eq!(home.run(&["node", "list"]).0, 4, "no credential on this computer");
    assert_eq!(home.run(&["serve"]).0, 1, "no state");
    assert_eq!(home.run(&["init"]).0, 0);
    assert_eq!(home.run(&["image", "build"]).0, 2);
    let (code, out, err) = home.run(&["node", "list"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.starts_with("muster: the provisioner at 127.0.0.1:1 does not answer") && err.contains("\nhint: "),
        "{err}"
    );
    let (code, out, err) = home.run(&["node", "metrics", "mini-pc-1"]);
    assert_eq!((code, out.as_str()), (1, ""), "nobody could be believed");
    assert!(err.contains("no roster is kept on this computer\nhint: "), "{err}");
    assert_eq!(home.run(&["cluster", "unlock"]).0, 2, "not confirmed");
    assert_eq!(home.run(&["--help"]).0, 0);
    assert_eq!(home.run(&["--version"]).0, 0);
}

#[test]
fn a_closed_pipe_is_success() {
    let home = Home::new();
    let mut child = home.command(&["check"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn kata_and_k3s_are_registered_with_what_is_not_real_about_them() {
    let home = Home::new();
    assert_eq!(home.run(&["init"]).0, 0);
    let k3s = home.0.path().join("k3s");
    std::fs::create_dir_all(&k3s).unwrap();
    std::fs::write(k3s.join("k3s"), "#!/bin/sh\n").unwrap();
    std::fs::write(k3s.join("etcd"), "x").unwrap();
    std::fs::write(k3s.join("STAND-IN"), "k3s is a stand-in\n").unwrap();
    let (code, _, err) = home.run(&["image", "build", "--k3s", k3s.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let archive = home.0.path().join("kata-static-arm64.tar.zst");
    std::fs::write(&archive, "not really").unwrap();
    assert_eq!(home.run(&["image", "build", "--kata", archive.to_str().unwrap()]).0, 0);
    let (code, out, _) = home.run(&["image", "list", "-o", "json"]);
    assert_eq!(code, 0);
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3, "k3s for both architectures, Kata for the one in its name: {out}");
    let k3s: Vec<_> = rows.iter().filter(|row| row["kind"] == "k3s").collect();
    assert!(
        k3s.iter()
            .all(|row| row["stand_in"] == "k3s is a stand-in" && row["files"].as_array().unwrap().len() == 2)
    );
    assert!(
        rows.iter().any(|row| row["kind"] == "kata" && row["arch"] == "aarch64" && row["version"] == "4.1.0")
    );
    let agent = home.0.path().join("agent");
    std::fs::write(&agent, "#!/bin/sh\n").unwrap();
    let (code, _, err) =
        home.run(&["image", "build", "--netboot", "nowhere", "--agent", agent.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("manifest.json"), "{err}");
}
