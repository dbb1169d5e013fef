//! Membership: asks the one decision, saves its record first, then lets grants and commands be handed out.

use super::{Core, CoreError, Now, events};
use crate::cluster::evidence::{Server, View};
use crate::cluster::membership::{Decision, Fresh, decide};
use crate::cluster::record::{Cluster, Record};
use crate::cluster::upkeep::{self, Addon, Wanted};
use crate::config::meant::Machine;
use crate::store::rows::{BOXES, COMMANDS, CommandRow, number_key};
use crate::store::{Read, StoreError, Tx, highest};
use muster_protocol::grant::Action;
use muster_protocol::ids::Number;
use muster_protocol::wire;

/// A command that was not fetched or answered within this is dropped; the decision gives it anew when it is still due.
const COMMAND_VALID_S: u64 = 600;

impl Core {
    /// What the decision may look at.
    pub(super) fn with_view<R>(&self, now: Now, look: impl FnOnce(&Record, &View<'_>) -> R) -> R {
        let declared = self.servers();
        // Without the store there is no newest number; then every number heard is newer, which stops everything.
        let newest =
            self.store.view().and_then(|view| highest(&view, self.online.number)).unwrap_or_default();
        let view = View {
            now_ms: now.mono_ms,
            now_unix: now.unix(),
            declared: &declared,
            heard: &self.heard,
            newest,
            pending: &[],
        };
        look(&self.record, &view)
    }

    fn servers(&self) -> Vec<Server> {
        let servers = self.config.servers();
        servers
            .filter_map(|machine| {
                Some(Server { name: machine.name.clone(), address: machine.address?.address })
            })
            .collect()
    }

    pub(super) fn cluster_step(&mut self, now: Now) -> Result<(), CoreError> {
        if let Some(why) = self.frozen(now)? {
            let waiting = self.config.servers().map(|server| (server.name.clone(), why.clone())).collect();
            self.decision = Decision { waiting, ..Decision::default() };
            return Ok(());
        }
        self.ordered.retain(|_, at| now.mono_ms.saturating_sub(*at) < upkeep::AGAIN_MS);
        let declared = self.servers();
        let delegation = self.online.number;
        let decision = self.store.write(|tx| -> Result<Decision, CoreError> {
            expire(tx, now)?;
            let pending: Vec<_> = commands(tx)?.into_iter().map(|(_, row)| (row.node, row.action)).collect();
            let view = View {
                now_ms: now.mono_ms,
                now_unix: now.unix(),
                declared: &declared,
                heard: &self.heard,
                newest: highest(tx, delegation)?,
                pending: &pending,
            };
            let mut fresh = FromStore { tx: &mut *tx, delegation, failed: None };
            let mut decision = decide(&self.record, &view, &mut fresh);
            if let Some(error) = fresh.failed {
                return Err(error);
            }
            if let Some(record) = &decision.record {
                tx.put_signed("membership", &wire::encode(record))?;
            }
            let recently = |subject: &str| self.ordered.contains_key(subject);
            decision.commands.retain(|(_, action)| !recently(&upkeep::subject(action)));
            if decision.commands.is_empty() {
                let (wanted, addons) = self.wanted();
                let record = decision.record.as_ref().unwrap_or(&self.record);
                decision.commands.extend(upkeep::next(record, &view, &wanted, &addons, &recently));
            }
            for (node, action) in &decision.commands {
                let fence = tx.fresh(delegation)?;
                let row = CommandRow {
                    node: node.clone(),
                    action: action.clone(),
                    expires_at: now.unix() + COMMAND_VALID_S,
                };
                tx.put(COMMANDS, &number_key(fence), &row)?;
                let what = format!("command {fence} ({})", word(action));
                events::note(tx, now.unix_ms, node.as_str(), what, None)?;
            }
            for what in &decision.events {
                events::note(tx, now.unix_ms, events::CLUSTER, what.clone(), None)?;
            }
            Ok(decision)
        })?;
        if let Some(record) = &decision.record {
            self.record = record.clone();
        }
        let ordered = decision.commands.iter().map(|(_, action)| (upkeep::subject(action), now.mono_ms));
        self.ordered.extend(ordered);
        self.decision = decision;
        Ok(())
    }

    /// What Nodes and cluster should carry.
    fn wanted(&self) -> (Vec<Wanted>, Vec<Addon>) {
        let sandboxed = |machine: &Machine| self.config.kata.is_some() && machine.sandbox;
        let wanted = self.config.machines.iter().map(|machine| {
            let (key, value) = upkeep::SANDBOX_LABEL;
            let sandbox = sandboxed(machine).then(|| (key.to_owned(), value.to_owned()));
            Wanted {
                node: machine.name.clone(),
                labels: machine.labels.iter().cloned().chain(sandbox).collect(),
                taints: machine.taints.clone(),
            }
        });
        let addons = self.config.machines.iter().any(sandboxed).then_some(upkeep::RUNTIME_CLASS);
        (wanted.collect(), addons.into_iter().collect())
    }

    /// A person's change of the record.
    pub(super) fn save_record(
        &mut self,
        now: Now,
        record: Record,
        what: String,
        by: super::operator::Person,
    ) -> Result<(), CoreError> {
        self.store.write(|tx| -> Result<(), StoreError> {
            tx.put_signed("membership", &wire::encode(&record))?;
            if record.cluster == Cluster::None {
                // Tokens of an init that is abandoned must not reach the next one.
                for (key, _) in tx.all(BOXES, "")? {
                    tx.delete(BOXES, &key)?;
                }
            }
            events::note(tx, now.unix_ms, events::CLUSTER, what, Some(by.key))
        })?;
        self.record = record;
        self.decision = Decision::default();
        Ok(())
    }

    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// Numbers of the open transaction: they are on disk together with what they number.
struct FromStore<'a> {
    tx: &'a mut Tx,
    delegation: u32,
    failed: Option<CoreError>,
}

impl Fresh for FromStore<'_> {
    fn number(&mut self) -> Number {
        self.tx.fresh(self.delegation).unwrap_or_else(|error| {
            self.failed = Some(error.into());
            Number::default()
        })
    }

    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        if getrandom::fill(&mut nonce).is_err() {
            self.failed = Some(CoreError::Random);
        }
        nonce
    }
}

pub(super) fn commands(view: &impl Read) -> Result<Vec<(Number, CommandRow)>, StoreError> {
    let rows = view.all(COMMANDS, "")?;
    Ok(rows.into_iter().filter_map(|(key, row)| Some((parse_number(&key)?, row))).collect())
}

fn parse_number(key: &str) -> Option<Number> {
    let mut parts = key.split('.');
    let delegation = parts.next()?.parse().ok()?;
    let generation = parts.next()?.parse().ok()?;
    let n = parts.next()?.parse().ok()?;
    Some(Number { delegation, generation, n })
}

fn expire(tx: &mut Tx, now: Now) -> Result<(), StoreError> {
    for (fence, row) in commands(tx)? {
        if row.expires_at < now.unix() {
            tx.delete(COMMANDS, &number_key(fence))?;
            let what = format!("command {fence} ({}) was not answered in time", word(&row.action));
            events::note(tx, now.unix_ms, row.node.as_str(), what, None)?;
        }
    }
    Ok(())
}

pub(super) fn word(action: &Action) -> &'static str {
    match action {
        Action::Snapshot { .. } => "snapshot",
        Action::Apply { .. } => "apply",
        Action::Label { .. } => "label",
    }
}
