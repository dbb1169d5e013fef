//! Stories of several servers on real etcd: made, used, broken as recorded, repaired.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

/// Servers in network namespaces.
mod lab;

/// Broken as recorded.
mod broken;
/// Made, used, repaired.
mod made;

use lab::{Lab, address};

/// Every wait is long, because a busy machine is slow and a good run does not need it.
const LONG: u64 = 60;

fn first(lab: &mut Lab) {
    lab.config(1, "cluster-init: true\ntoken: sekret\nagent-token: agentonly\nsecrets-encryption: true\n");
    lab.start(1, "server");
    lab.wait_ready(1, LONG);
}

fn joins(lab: &mut Lab, n: usize) {
    let token = lab.token(1, "token");
    let server = address(1);
    lab.config(
        n,
        &format!("server: https://{server}:6443\ntoken: {token}\nagent-token: agentonly\nsecrets-encryption: true\n"),
    );
    lab.start(n, "server");
}
