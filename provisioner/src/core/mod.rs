//! The one owner of store, configuration and keys. Edges bring a question and the time; each answer is saved before
//! it is returned.
//!
//! Nothing here waits for I/O other than the store's. What is only heard (statuses, live claims, DHCP's traces) is kept
//! in memory; what was promised is in the store.

/// Who is answered at boot, and which files are served.
pub mod boot_table;
/// Membership: who may start k3s, and what servers are told to do.
mod cluster_step;
/// What happened, per machine, bounded.
pub mod events;
/// Why a machine did not boot.
pub mod explain;
/// Old copies and second provisioners: when nothing may be handed out.
mod freeze;
/// The first exchange of every boot.
mod hello;
/// What is kept in memory of each machine.
pub mod live;
/// What each node is to be, and who belongs to the cluster.
mod manifest;
/// What an operator asks for.
pub mod operator;
/// Orders: made, claimed, closed.
mod ordering;
/// The whole picture, for `muster status`.
pub mod picture;
/// What an install would do, before it is done.
pub mod plan;
/// What a machine says of its progress.
mod report;
/// What a running node says and hears.
mod sync;
/// When each stage of each boot was, in wall time.
pub mod timeline;

use crate::cluster::admission::Claims;
use crate::cluster::evidence::Heard;
use crate::cluster::membership::Decision;
use crate::cluster::record::Record;
use crate::config::meant::Config;
use crate::store::rows::{Admitted, COUNTERS, HOME, Home, KEYS, KeyRow, MACHINES, MachineRow, OPERATORS};
use crate::store::{Read, Store, StoreError, Tx};
use live::Live;
use muster_protocol::ids::{Mac, NodeName};
use muster_protocol::keys::{Fingerprint, PublicKey};
use muster_protocol::roster::Operator;
use muster_protocol::signed::{OnlineKey, Trust};
use muster_protocol::wire::{self, Undecodable};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// The moment of a question.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since this process started.
    pub mono_ms: u64,
    pub unix_ms: u64,
    /// The clock is synchronised, or declared to be right: it may be signed.
    pub clock: bool,
}

impl Now {
    pub fn unix(&self) -> u64 {
        self.unix_ms / 1000
    }
}

/// Who asks, as TLS proved it.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub key: PublicKey,
    pub address: IpAddr,
}

impl Asker {
    pub fn print(&self) -> Fingerprint {
        self.key.fingerprint()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("the store")]
    Store(#[from] StoreError),
    #[error("the saved membership record cannot be read: {0}")]
    Record(Undecodable),
    #[error("a saved statement cannot be read: {0}")]
    Saved(#[from] Undecodable),
    #[error(
        "the store belongs to another cluster than the keys\nhint: --state names one directory with both"
    )]
    OtherCluster,
    #[error("the system gives no random bytes")]
    Random,
}

/// What `Core` is made from.
pub struct Parts {
    pub store: Store,
    pub config: Config,
    pub trust: Trust,
    pub online: OnlineKey,
    pub artifacts: PathBuf,
}

pub struct Core {
    store: Store,
    config: Config,
    trust: Trust,
    online: OnlineKey,
    artifacts: PathBuf,
    home: Home,
    claims: Claims,
    live: BTreeMap<NodeName, Live>,
    /// Which machine an unadmitted key said it is; for its reports.
    named: BTreeMap<Fingerprint, NodeName>,
    heard: BTreeMap<NodeName, Heard>,
    record: Record,
    decision: Decision,
    /// When a command about something was given, on the monotonic clock, kept for [`crate::cluster::upkeep::AGAIN_MS`]: one that
    /// fails, or whose result nobody sees, is not given again with every report.
    ordered: BTreeMap<String, u64>,
    traces: timeline::Traces,
    strangers: crate::boot::seen::Seen,
    alarms: freeze::Alarms,
}

/// How often the time is remembered.
const TIME_EVERY_S: u64 = 600;
/// Unadmitted keys whose names are remembered; the rest must say hello again.
const NAMED: usize = 4096;

impl Core {
    pub fn open(parts: Parts) -> Result<Self, CoreError> {
        let Parts { store, config, trust, online, artifacts } = parts;
        let view = store.view()?;
        let home = view.get(HOME, "home")?.filter(|home| home.cluster == trust.cluster);
        let home = home.ok_or(CoreError::OtherCluster)?;
        let record = match view.signed("membership")? {
            Some(bytes) => wire::decode(&bytes).map_err(CoreError::Record)?,
            None => Record::default(),
        };
        let traces = timeline::Traces::load(&view)?;
        // cluster.toml may have changed since the last start.
        store.write(manifest::roster_changed)?;
        Ok(Self {
            store,
            config,
            trust,
            online,
            artifacts,
            home,
            claims: Claims::default(),
            live: BTreeMap::new(),
            named: BTreeMap::new(),
            heard: BTreeMap::new(),
            record,
            decision: Decision::default(),
            ordered: BTreeMap::new(),
            traces,
            strangers: crate::boot::seen::Seen::default(),
            alarms: freeze::Alarms::default(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub fn online(&self) -> &OnlineKey {
        &self.online
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn operators(&self) -> Result<Vec<Operator>, CoreError> {
        Ok(self.store.view()?.get(OPERATORS, "operators")?.unwrap_or_default())
    }

    /// Whose key an operator's is.
    pub fn is_operator(&self, key: &PublicKey) -> Result<bool, CoreError> {
        Ok(self.operators()?.iter().any(|operator| operator.key == *key))
    }

    /// Once a second: time passes for what is remembered and for the cluster.
    pub fn tick(&mut self, now: Now) -> Result<(), CoreError> {
        self.traces.save(&self.store)?;
        self.note_time(now)?;
        self.cluster_step(now)
    }

    /// Remembers the time now and then: a clock that later is below it is not believed.
    fn note_time(&self, now: Now) -> Result<(), CoreError> {
        self.store.write(|tx| {
            let known = tx.get(COUNTERS, "unix")?.unwrap_or(0);
            if now.clock && now.unix() > known + TIME_EVERY_S {
                tx.put(COUNTERS, "unix", &now.unix())
            } else {
                Ok(())
            }
        })?;
        Ok(())
    }

    /// The earliest that it can be now.
    pub fn earliest(&self) -> Result<u64, CoreError> {
        let known = self.store.view()?.get(COUNTERS, "unix")?.unwrap_or(0);
        Ok(known.max(self.trust.build_epoch))
    }

    fn note_name(&mut self, key: Fingerprint, name: &NodeName) {
        if self.named.len() >= NAMED && !self.named.contains_key(&key) {
            self.named.clear();
        }
        self.named.insert(key, name.clone());
    }
}

/// The row of a declared machine; a machine never heard of has an empty one.
fn machine_row(view: &impl Read, name: &NodeName) -> Result<MachineRow, StoreError> {
    Ok(view.get(MACHINES, name.as_str())?.unwrap_or_default())
}

/// Every admitted key.
fn admitted(view: &impl Read) -> Result<Vec<KeyRow>, StoreError> {
    Ok(view.all(KEYS, "")?.into_iter().map(|(_, row)| row).collect())
}

/// The machine that this key was admitted for.
fn name_of(view: &impl Read, key: &PublicKey) -> Result<Option<NodeName>, StoreError> {
    let row = view.get(KEYS, &key.fingerprint().to_string())?;
    Ok(row.filter(|row| row.key == *key).map(|row| row.name))
}

/// Admits a key, in place of the one before.
fn admit(tx: &mut Tx, name: &NodeName, row: &mut MachineRow, admitted: Admitted) -> Result<(), StoreError> {
    if let Some(old) = row.admitted {
        tx.delete(KEYS, &old.key.fingerprint().to_string())?;
    }
    row.admitted = Some(admitted);
    row.pending.retain(|pending| pending.key != admitted.key);
    let key = KeyRow { name: name.clone(), key: admitted.key };
    tx.put(KEYS, &admitted.key.fingerprint().to_string(), &key)?;
    manifest::roster_changed(tx)
}

/// MAC addresses by which a machine is declared or was seen.
fn macs_of(config: &Config, row: &MachineRow, name: &NodeName) -> Vec<Mac> {
    let declared = config.machine(name).into_iter().flat_map(|machine| machine.macs.iter().copied());
    let seen = row.inventory.iter().flat_map(|inventory| inventory.nics.iter().map(|nic| nic.mac));
    declared.chain(seen).collect()
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_cluster;
#[cfg(test)]
mod tests_node;
