//! The provisioner's durable and volatile halves around the shipped `decide`: save first, then answer.

use crate::luck::Luck;
use muster::cluster::evidence::{Heard, Server, View};
use muster::cluster::membership::{Decision, Fresh, decide};
use muster::cluster::record::{Listed, Record};
use muster_protocol::grant::{Action, Grant, Start};
use muster_protocol::ids::{NodeName, Number};
use muster_protocol::keys::Fingerprint;
use std::collections::BTreeMap;

/// The shipped provisioner's commands live a minute; half of it keeps histories short.
const COMMAND_EXPIRES_MS: u64 = 30_000;

/// What is on its disk.
#[derive(Debug, Clone, Default)]
pub struct Store {
    pub record: Record,
    pub counter: Number,
    pub pending: Vec<(NodeName, Action)>,
    pub pending_since: u64,
}

/// A fault planted in the provisioner, to see that the invariants bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisionerBug {
    None,
    /// Answers before it has saved: a crash in between forgets the lock.
    SendBeforeSave,
    /// Gives the lock holder's grant to join to everybody.
    GrantsToAll,
    /// Releases the lock as soon as its holder is listed.
    ReleasesEarly,
    /// Starts again from number zero after a loss of its store.
    NumbersRestart,
}

#[derive(Debug, Clone)]
pub struct Provisioner {
    pub store: Store,
    pub alive: bool,
    heard: BTreeMap<NodeName, Heard>,
    sequences: BTreeMap<NodeName, u64>,
    declared: Vec<Server>,
    pub bug: ProvisionerBug,
    /// Why servers waited at the last turn.
    pub waiting: BTreeMap<NodeName, String>,
}

/// Draws numbers from the store's counter.
struct Counter<'a> {
    counter: &'a mut Number,
    luck: &'a mut Luck,
}

impl Fresh for Counter<'_> {
    fn number(&mut self) -> Number {
        self.counter.n += 1;
        *self.counter
    }
    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.luck.any().to_le_bytes());
        nonce
    }
}

/// What leaves for the nodes after one decision.
#[derive(Debug, Default)]
pub struct Sent {
    pub grants: Vec<Grant>,
    pub commands: Vec<(NodeName, Action)>,
}

impl Provisioner {
    pub fn new(declared: Vec<Server>, bug: ProvisionerBug) -> Self {
        Self {
            store: Store::default(),
            alive: true,
            heard: BTreeMap::new(),
            sequences: BTreeMap::new(),
            declared,
            bug,
            waiting: BTreeMap::new(),
        }
    }

    /// kill -9 and start: memory is gone, the store is not.
    pub fn restart(&mut self) {
        self.heard.clear();
        self.sequences.clear();
        self.alive = true;
    }

    pub fn hear(&mut self, name: &NodeName, sequence: u64, heard: Heard) {
        let last = self.sequences.entry(name.clone()).or_default();
        // A report that was overtaken or doubled is no evidence of now.
        if sequence > *last {
            *last = sequence;
            self.heard.insert(name.clone(), heard);
        }
    }

    pub fn forget_command(&mut self, name: &NodeName) {
        self.store.pending.retain(|(node, _)| node != name);
    }

    /// One turn. `crash` cuts between saving and sending.
    pub fn turn(&mut self, luck: &mut Luck, now: u64, crash: bool) -> Sent {
        // A command that was lost is given again when it has expired.
        if now.saturating_sub(self.store.pending_since) > COMMAND_EXPIRES_MS {
            self.store.pending.clear();
        }
        let mut counter = self.store.counter;
        let record = self.store.record.clone();
        let view = View {
            now_ms: now,
            now_unix: now / 1000,
            declared: &self.declared,
            heard: &self.heard,
            newest: self.store.counter,
            pending: &self.store.pending,
        };
        let decision = decide(&record, &view, &mut Counter { counter: &mut counter, luck });
        let sent = self.outgoing(&decision);
        self.waiting.clone_from(&decision.waiting);
        if self.bug == ProvisionerBug::SendBeforeSave && crash {
            self.alive = false;
            return sent;
        }
        // The number and the record are one transaction.
        self.store.counter = counter;
        if let Some(mut next) = decision.record {
            if self.bug == ProvisionerBug::ReleasesEarly {
                next.lock.take_if(|lock| lock.listed > Listed::Never);
            }
            self.store.record = next;
        }
        if !decision.commands.is_empty() {
            self.store.pending.extend(decision.commands.iter().cloned());
            self.store.pending_since = now;
        }
        if crash {
            self.alive = false;
            return Sent::default();
        }
        sent
    }

    fn outgoing(&self, decision: &Decision) -> Sent {
        let grants = decision.grants.iter().map(|(node, fence, start)| Grant {
            fence: *fence,
            node: node.clone(),
            key: Fingerprint([0; 10]),
            start: start.clone(),
        });
        let mut grants: Vec<Grant> = grants.collect();
        if self.bug == ProvisionerBug::GrantsToAll
            && let Some(grant) =
                grants.first().filter(|grant| matches!(grant.start, Start::Join { .. })).cloned()
        {
            let all = self.declared.iter().map(|server| Grant { node: server.name.clone(), ..grant.clone() });
            grants = all.collect();
        }
        Sent { grants, commands: decision.commands.clone() }
    }
}
