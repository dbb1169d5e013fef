//! lab-supervisor on units of /bin/sh: what systemd would do, seen through its socket and its `systemctl`.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Supervised {
    folder: TempDir,
    child: Child,
}

impl Supervised {
    fn start(service: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let unit = dir.join("x.service");
        std::fs::write(&unit, format!("[Service]\n{}", service.replace("DIR", &dir.display().to_string())))
            .unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lab-supervisor"), dir.join("systemctl")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_lab-supervisor"))
            .arg(&unit)
            .arg("--control")
            .arg(dir.join("x.service.sock"))
            .arg("--log")
            .arg(dir.join("log"))
            .args(options)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.join("x.service.sock");
        wait_for("the socket", || socket.exists());
        Self { folder, child }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn systemctl(&self, args: &str) -> Output {
        Command::new(self.dir().join("systemctl"))
            .args(args.split_whitespace())
            .env("LAB_SUPERVISOR_DIR", self.dir())
            .output()
            .unwrap()
    }

    fn shown(&self, property: &str) -> String {
        let output = self.systemctl(&format!("show -p {property} --value x.service"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn lines(&self, file: &str) -> usize {
        std::fs::read_to_string(self.dir().join(file)).map_or(0, |t| t.lines().count())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "polls another process, which has no event to wait for")]
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // a zombie waits for whoever adopted it
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_failing_gate_keeps_the_service_down_and_is_asked_again() {
    let gate = "Restart=always\nRestartSec=50ms\nExecStartPre=-/bin/false\nExecStartPre=/bin/sh -c 'echo x >>DIR/asked; test -e DIR/open'\nExecStart=/bin/sh -c 'echo x >>DIR/started; exec sleep 600'\n";
    let service = Supervised::start(gate, &[]);
    wait_for("three askings", || service.lines("asked") >= 3);
    assert_eq!(service.lines("started"), 0);
    assert_ne!(service.systemctl("is-active x").status.code(), Some(0));
    std::fs::write(service.dir().join("open"), "").unwrap();
    wait_for("the start", || service.shown("ActiveState") == "active");
    assert_eq!(service.systemctl("is-active x").status.code(), Some(0));
}

#[test]
fn a_killed_main_process_is_started_again_and_a_stopped_one_is_not() {
    let unit = "Restart=always\nRestartSec=50ms\nExecStart=/bin/sleep 600\n";
    let service = Supervised::start(unit, &[]);
    wait_for("the start", || service.shown("MainPID") != "0");
    let before = service.shown("MainPID");
    service.systemctl("kill x");
    wait_for("another process", || !["0", &before].contains(&service.shown("MainPID").as_str()));
    assert_eq!(service.shown("NRestarts"), "1");
    service.systemctl("stop x");
    assert_eq!((service.shown("ActiveState"), service.shown("MainPID")), ("inactive".into(), "0".into()));
}

#[test]
fn a_masked_unit_does_not_start() {
    let service = Supervised::start("ExecStart=/bin/sleep 600\n", &["--inactive"]);
    service.systemctl("mask x");
    let refused = service.systemctl("start x");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("masked"));
    assert_eq!(service.shown("LoadState"), "masked");
    service.systemctl("unmask x");
    assert!(service.systemctl("start --no-block x").status.success());
    wait_for("the start", || service.shown("ActiveState") == "active");
}

#[test]
fn kill_mode_process_leaves_what_the_service_started() {
    let unit = "KillMode=process\nExecStart=/bin/sh -c 'sleep 600 & echo $! >DIR/pod; wait'\n";
    let service = Supervised::start(unit, &[]);
    wait_for("the pod", || service.lines("pod") == 1);
    let pod = std::fs::read_to_string(service.dir().join("pod")).unwrap().trim().to_owned();
    service.systemctl("stop x");
    assert!(is_alive(&pod));
    Command::new("kill").args(["-9", &pod]).status().unwrap();
}

#[test]
fn a_killed_supervisor_takes_the_service_with_it() {
    let mut service = Supervised::start("ExecStart=/bin/sleep 600\n", &[]);
    wait_for("the start", || service.shown("MainPID") != "0");
    let pid = service.shown("MainPID");
    service.child.kill().unwrap();
    wait_for("the end of the service", || !is_alive(&pid));
}

#[test]
fn a_missing_environment_file_counts_unless_it_may_be_missing() {
    let run = |dash| {
        let unit = format!("EnvironmentFile={dash}DIR/none\nExecStart=/bin/sleep 600\n");
        let service = Supervised::start(&unit, &[]);
        wait_for("an outcome", || ["active", "failed"].contains(&service.shown("ActiveState").as_str()));
        service.shown("ActiveState")
    };
    assert_eq!(run("-"), "active");
    assert_eq!(run(""), "failed");
}
