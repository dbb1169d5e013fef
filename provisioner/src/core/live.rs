//! What is kept in memory of each machine: its last status, and when its kernel started.

use super::{Asker, Now};
use muster_protocol::hello::Wait;
use muster_protocol::ids::InstanceId;
use muster_protocol::keys::Fingerprint;
use muster_protocol::status::Status;
use std::net::IpAddr;

/// A machine that says nothing for this long is silent, whatever it said last.
pub const SILENT_MS: u64 = 30_000;

#[derive(Debug, Clone)]
pub struct Live {
    pub key: Fingerprint,
    pub address: IpAddr,
    pub heard_mono_ms: u64,
    pub heard_unix_ms: u64,
    pub hello: Option<HelloSeen>,
    pub status: Option<Status>,
    /// When the kernel of the status's boot started, by our clock; the earliest estimate is the best one, because
    /// every delay on the way makes it later.
    pub kernel_unix_ms: u64,
}

/// The answers to a machine's hellos.
#[derive(Debug, Clone)]
pub struct HelloSeen {
    pub first_unix_ms: u64,
    /// When it first was told anything but to wait.
    pub let_go_unix_ms: Option<u64>,
    pub kernel_unix_ms: u64,
    pub wait: Option<Wait>,
}

impl Live {
    pub fn new(asker: &Asker, now: Now) -> Self {
        Self {
            key: asker.print(),
            address: asker.address,
            heard_mono_ms: now.mono_ms,
            heard_unix_ms: now.unix_ms,
            hello: None,
            status: None,
            kernel_unix_ms: 0,
        }
    }

    fn heard(&mut self, asker: &Asker, now: Now) {
        self.key = asker.print();
        self.address = asker.address;
        self.heard_mono_ms = now.mono_ms;
        self.heard_unix_ms = now.unix_ms;
    }

    pub fn note_hello(&mut self, asker: &Asker, now: Now, uptime_ms: u64, wait: Option<Wait>) {
        self.heard(asker, now);
        let kernel_unix_ms = now.unix_ms.saturating_sub(uptime_ms);
        let let_go = wait.is_none().then_some(now.unix_ms);
        match &mut self.hello {
            // The same boot, give or take what the network adds.
            Some(seen) if seen.kernel_unix_ms.abs_diff(kernel_unix_ms) < 5_000 => {
                seen.let_go_unix_ms = seen.let_go_unix_ms.or(let_go);
                seen.wait = wait;
            }
            Some(_) | None => {
                self.hello = Some(HelloSeen {
                    first_unix_ms: now.unix_ms,
                    let_go_unix_ms: let_go,
                    kernel_unix_ms,
                    wait,
                });
            }
        }
    }

    /// A status is taken when it is newer than the last of its boot. Tells whether it was.
    pub fn note_status(&mut self, asker: &Asker, now: Now, status: &Status) -> bool {
        let before = self.status.as_ref().map(|last| (last.boot, last.sequence));
        let same_key = self.key == asker.print();
        self.heard(asker, now);
        if same_key
            && before.is_some_and(|(boot, sequence)| boot == status.boot && sequence >= status.sequence)
        {
            return false;
        }
        let kernel = now.unix_ms.saturating_sub(status.uptime_ms);
        let known = before.is_some_and(|(boot, _)| boot == status.boot).then_some(self.kernel_unix_ms);
        self.kernel_unix_ms = known.map_or(kernel, |known| known.min(kernel));
        self.status = Some(status.clone());
        true
    }

    pub fn boot(&self) -> Option<InstanceId> {
        self.status.as_ref().map(|status| status.boot)
    }

    pub fn silent_for(&self, mono_ms: u64) -> Option<u64> {
        let silent = mono_ms.saturating_sub(self.heard_mono_ms);
        (silent > SILENT_MS).then_some(silent)
    }
}
