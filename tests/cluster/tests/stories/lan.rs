//! A bridge in a namespace of its own, where the provisioner is, and a namespace for each machine.
//!
//! Names carry this process's id, so that two runs do not meet and a later run cleans up after one that was killed.

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

pub(crate) const PROVISIONER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The servers' virtual address: keepalived's business on real machines, here it stays with the first server.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const PREFIX: &str = "mucl";

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

pub(crate) struct Lan {
    name: String,
    machines: u8,
}

impl Lan {
    /// `story` is one letter, unique in this process.
    pub(crate) fn new(story: char, machines: u8) -> Self {
        remove_leftovers();
        let lan = Self { name: format!("{PREFIX}{}{story}", std::process::id()), machines };
        let hub = lan.hub();
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link add br0 type bridge forward_delay 0 mcast_snooping 0"));
        ip(&format!("-n {hub} addr add {PROVISIONER}/24 brd + dev br0"));
        ip(&format!("-n {hub} link set br0 up"));
        ip(&format!("-n {hub} link set lo up"));
        for n in 1..=machines {
            let namespace = lan.machine(n);
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link add eth0 type veth peer name port{n} netns {hub}"));
            ip(&format!("-n {hub} link set port{n} master br0 up"));
            ip(&format!("-n {namespace} addr add {}/24 brd + dev eth0", address(n)));
            ip(&format!("-n {namespace} link set eth0 up"));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} route add default via {PROVISIONER}"));
        }
        ip(&format!("-n {} addr add {VIP}/24 dev eth0", lan.machine(1)));
        lan
    }

    pub(crate) fn hub(&self) -> String {
        format!("{}h", self.name)
    }

    pub(crate) fn machine(&self, n: u8) -> String {
        format!("{}m{n}", self.name)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in (1..=self.machines).map(|n| self.machine(n)).chain([self.hub()]) {
            kill_all(&namespace);
            let _absent = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
    }
}

/// A command inside a namespace; the process that is started becomes it.
pub(crate) fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program).stdin(Stdio::null());
    command
}

/// Runs `work` on a thread that is in the namespace.
pub(crate) fn on<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// `kill -9` of everything in the namespace, until nothing is left: a power cut.
pub(crate) fn kill_all(namespace: &str) {
    loop {
        let listed =
            Command::new("ip").args(["netns", "pids", namespace]).stderr(Stdio::null()).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        // One that we started and have not waited for yet stays in /proc, but no longer has a namespace.
        let pids: Vec<i32> = listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Of runs whose process is gone.
fn remove_leftovers() {
    let gone = |pid: &str| !pid.is_empty() && !Path::new("/proc").join(pid).exists();
    let pid = |name: &str, prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        Some(rest.chars().take_while(char::is_ascii_digit).collect::<String>())
    };
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if pid(&name, PREFIX).is_some_and(|pid| gone(&pid)) {
            kill_all(&name);
            let _absent = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}
