//! When nothing may be handed out: this store is an old copy, or another provisioner of this cluster is alive.
//!
//! Machines that are installed boot on, and statuses are taken; orders, claims and cluster steps stop.

use super::{Core, CoreError, Now, events};
use crate::store::rows::{FROZEN, Frozen};
use crate::store::{Read, highest};
use muster_protocol::hello::{Seen, Wait, wait};
use muster_protocol::ids::{NodeName, Number};
use std::net::IpAddr;

/// What an unadmitted key claims is believed for this long, once: it may be true (the store may be older than the key), but a
/// stranger must not stop the cluster for ever.
const RUMOUR_MS: u64 = 600_000;
/// Nothing else brings back what the old copy does not know.
const NEWEST: &str = "hint: stop muster serve and put the newest copy of store.redb back";
/// Another provisioner counts as alive this long after its last proof.
const SECOND_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Alarms {
    rumour: Option<(u64, String)>,
    second: Option<(u64, IpAddr)>,
}

impl Core {
    /// A live provisioner of this cluster proved itself from there.
    pub fn second_provisioner(&mut self, now: Now, from: IpAddr) {
        if self.alarms.second.is_none_or(|(at, _)| now.mono_ms.saturating_sub(at) > SECOND_MS) {
            tracing::error!(%from, "another provisioner of this cluster is alive: no orders, no cluster steps until one is gone");
        }
        self.alarms.second = Some((now.mono_ms, from));
    }

    /// Why nothing may be handed out; `None` when all is well.
    pub fn frozen(&self, now: Now) -> Result<Option<String>, CoreError> {
        if let Some((at, from)) = self.alarms.second
            && now.mono_ms.saturating_sub(at) <= SECOND_MS
        {
            return Ok(Some(format!(
                "another provisioner of this cluster is alive at {from}: stop one of the two"
            )));
        }
        if let Some(frozen) = self.store.view()?.get(FROZEN, "frozen")? {
            return Ok(Some(format!(
                "{} has seen number {}, this store had given {} at most: it is an old copy ({NEWEST})",
                frozen.from, frozen.heard, frozen.own
            )));
        }
        let rumour = self.alarms.rumour.as_ref();
        Ok(rumour.filter(|(at, _)| now.mono_ms.saturating_sub(*at) <= RUMOUR_MS).map(|(_, why)| why.clone()))
    }

    pub(super) fn frozen_wait(&self, now: Now) -> Result<Option<Wait>, CoreError> {
        Ok(self.frozen(now)?.map(|reason| Wait { code: wait::FROZEN, reason }))
    }

    /// Compares what a node has seen with what this store has given.
    pub(super) fn compare_numbers(
        &mut self,
        now: Now,
        name: &NodeName,
        admitted: bool,
        seen: &Seen,
        marker: Option<Number>,
    ) -> Result<(), CoreError> {
        let numbers = [seen.manifest, seen.order, seen.fence, seen.roster, marker.unwrap_or_default()];
        let heard = numbers.into_iter().max().unwrap_or_default();
        let delegation = self.online.number;
        let own = highest(&self.store.view()?, delegation)?;
        if heard <= own && seen.delegation <= delegation {
            return Ok(());
        }
        if !admitted {
            let why = format!(
                "{name}, whose key is not admitted, says it has seen number {heard}; this store has given {own} at most: is it an old copy? ({NEWEST})"
            );
            // The first counts, and its time: who repeats it every minute must not keep the cluster still.
            self.alarms.rumour.get_or_insert((now.mono_ms, why));
            return Ok(());
        }
        self.store.write(|tx| {
            if tx.get(FROZEN, "frozen")?.is_some() {
                return Ok(());
            }
            let what = format!("{name} has seen number {heard}, this store has given {own} at most: frozen");
            events::note(tx, now.unix_ms, events::CLUSTER, what, None)?;
            let frozen = Frozen { at_unix_ms: now.unix_ms, heard, own, from: name.to_string() };
            tx.put(FROZEN, "frozen", &frozen)
        })?;
        Ok(())
    }
}
