//! What an operator asks for: approve a key, open the window, order an install, the cluster's ways out. Each is saved
//! with the operator's key and named in the machine's events.

use super::manifest::image;
use super::ordering::{NewOrder, newest_order};
use super::{Core, CoreError, Now, admit, events, machine_row};
use crate::cluster::by_hand;
use crate::cluster::orders::{self, Situation};
use crate::config::meant::Os;
use crate::store::artifacts;
use crate::store::rows::{
    ARTIFACTS, Admitted, ArtifactRow, How, KEYS, MACHINES, ORDERS, OrderState, WINDOW, Window, number_key,
};
use crate::store::{Read, StoreError};
use muster_protocol::ids::{NodeName, Number};
use muster_protocol::keys::Fingerprint;
use muster_protocol::order::{PlanId, Wipe};

/// The operator who asks.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    pub key: Fingerprint,
}

/// Why an operator's request is not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no machine `{0}` is declared in cluster.toml\nhint: muster node list")]
    NoSuchMachine(NodeName),
    #[error("key {key} has not asked to be `{name}`\nhint: muster node show {name} lists the keys that have")]
    NoSuchKey { name: NodeName, key: Fingerprint },
    #[error("key {key} is admitted as `{other}` already")]
    KeyOfAnother { key: Fingerprint, other: NodeName },
    #[error(
        "`{name}` is installed under key {admitted}\nhint: if that key is lost for good, muster node approve {name} {key} --replace-key"
    )]
    Installed { name: NodeName, admitted: Fingerprint, key: Fingerprint },
    #[error("`{0}` keeps its own system: nothing is installed on it")]
    KeepsItsSystem(NodeName),
    #[error("`{0}` is not admitted yet\nhint: muster node approve {0} FINGERPRINT")]
    NotAdmitted(NodeName),
    #[error("the hardware of `{0}` is not known yet\nhint: it must boot from the network once")]
    NoInventory(NodeName),
    #[error("{0}")]
    Order(#[from] orders::Refused),
    #[error("{0}")]
    Cluster(#[from] by_hand::Refused),
    #[error("nothing is handed out now: {0}")]
    Frozen(String),
    #[error("a window can be open for 1 minute to 24 hours")]
    WindowLength,
    #[error("no window is open")]
    NoWindow,
    #[error(transparent)]
    Core(#[from] CoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Core(error.into())
    }
}

impl Core {
    fn declared(&self, name: &NodeName) -> Result<&crate::config::meant::Machine, Refusal> {
        self.config.machine(name).ok_or_else(|| Refusal::NoSuchMachine(name.clone()))
    }

    /// The operator compared this fingerprint on the machine's console.
    pub fn approve(
        &mut self,
        now: Now,
        by: Person,
        name: &NodeName,
        print: Fingerprint,
        replace: bool,
    ) -> Result<(), Refusal> {
        self.declared(name)?;
        let done = self.store.write(|tx| -> Result<Result<(), Refusal>, StoreError> {
            let mut row = machine_row(tx, name)?;
            if row.admitted.is_some_and(|known| known.key.fingerprint() == print) {
                return Ok(Ok(()));
            }
            if let Some(other) = tx.get(KEYS, &print.to_string())? {
                return Ok(Err(Refusal::KeyOfAnother { key: print, other: other.name }));
            }
            let Some(pending) =
                row.pending.iter().find(|pending| pending.key.fingerprint() == print).copied()
            else {
                return Ok(Err(Refusal::NoSuchKey { name: name.clone(), key: print }));
            };
            if let Some(old) = row.admitted.filter(|_| row.installed && !replace) {
                let admitted = old.key.fingerprint();
                return Ok(Err(Refusal::Installed { name: name.clone(), admitted, key: print }));
            }
            if let Some(old) = row.admitted {
                // What was promised to the old key is void.
                let fence = tx.fresh(self.online.number)?;
                if let Some(mut order) = newest_order(tx, name)?
                    && matches!(order.state, OrderState::Open | OrderState::Held { .. })
                {
                    order.state = OrderState::Superseded { by: fence };
                    tx.put(ORDERS, &number_key(order.order.number), &order)?;
                }
                row.order = None;
                row.installed = false;
                let what = format!("key {} is replaced", old.key.fingerprint());
                events::note(tx, now.unix_ms, name.as_str(), what, Some(by.key))?;
            }
            let how = How::Approved { by: by.key };
            admit(tx, name, &mut row, Admitted { key: pending.key, at_unix_ms: now.unix_ms, how })?;
            tx.put(MACHINES, name.as_str(), &row)?;
            events::note(tx, now.unix_ms, name.as_str(), format!("key {print} approved"), Some(by.key))?;
            Ok(Ok(()))
        })?;
        if done.is_ok() {
            self.live.remove(name);
        }
        done
    }

    pub fn open_window(&mut self, now: Now, by: Person, minutes: u64) -> Result<Window, Refusal> {
        if !(1..=24 * 60).contains(&minutes) {
            return Err(Refusal::WindowLength);
        }
        let window = Window {
            opened_unix_ms: now.unix_ms,
            until_unix_ms: now.unix_ms + minutes * 60_000,
            by: by.key,
            taken: Vec::new(),
        };
        self.store.write(|tx| -> Result<(), StoreError> {
            tx.put(WINDOW, "window", &window)?;
            let what = format!("admission window opened for {minutes} min");
            events::note(tx, now.unix_ms, events::CLUSTER, what, Some(by.key))
        })?;
        Ok(window)
    }

    pub fn close_window(&mut self, now: Now, by: Person) -> Result<(), Refusal> {
        self.store.write(|tx| {
            if tx.get(WINDOW, "window")?.is_none_or(|window| window.until_unix_ms <= now.unix_ms) {
                return Err(Refusal::NoWindow);
            }
            tx.delete(WINDOW, "window")?;
            Ok(events::note(tx, now.unix_ms, events::CLUSTER, "admission window closed", Some(by.key))?)
        })
    }

    /// Orders an install, whatever order there was before.
    pub fn install(
        &mut self,
        now: Now,
        by: Person,
        name: &NodeName,
        plan: Option<PlanId>,
    ) -> Result<(Number, Wipe), Refusal> {
        let machine = self.declared(name)?.clone();
        if machine.os == Os::Keep {
            return Err(Refusal::KeepsItsSystem(name.clone()));
        }
        self.not_frozen(now)?;
        let member = self.member_gate(now, &machine);
        self.store.write(|tx| {
            let row = machine_row(tx, name)?;
            let admitted = row.admitted.ok_or_else(|| Refusal::NotAdmitted(name.clone()))?;
            let inventory = row.inventory.as_ref().ok_or_else(|| Refusal::NoInventory(name.clone()))?;
            let image = image(tx, &self.config, &machine, inventory.arch)?;
            let order = newest_order(tx, name)?;
            let situation = Situation {
                cluster: self.trust.cluster,
                key: admitted.key.fingerprint(),
                machine: &machine,
                inventory,
                marker: row.marker.as_ref(),
                order: order.as_ref(),
                image: image.as_ref().map(|image| image.index).map_err(String::as_str),
                member: member.as_ref().map(|_| ()).map_err(String::as_str),
                now_unix: now.unix(),
            };
            let (disk, wipe) = orders::by_hand(&situation, plan)?;
            let image = image.map_err(|missing| orders::Refused::NoImage { missing })?;
            let new = NewOrder {
                machine: &machine,
                key: admitted.key.fingerprint(),
                disk,
                wipe,
                image,
                by: Some(by.key),
            };
            self.issue(tx, now, new)?;
            Ok((machine_row(tx, name)?.order.unwrap_or_default(), wipe))
        })
    }

    pub fn register(&mut self, now: Now, by: Option<Person>, row: &ArtifactRow) -> Result<(), CoreError> {
        self.store.write(|tx| {
            artifacts::register(tx, &self.artifacts, row)?;
            let what = format!("{} {} for {} registered", artifacts::word(row.kind), row.version, row.arch);
            events::note(tx, now.unix_ms, events::CLUSTER, what, by.map(|person| person.key))
        })?;
        Ok(())
    }

    pub fn artifacts(&self) -> Result<Vec<ArtifactRow>, CoreError> {
        Ok(self.store.view()?.all(ARTIFACTS, "")?.into_iter().map(|(_, row)| row).collect())
    }

    /// What an old copy knows of the cluster is nothing to decide on.
    fn not_frozen(&self, now: Now) -> Result<(), Refusal> {
        self.frozen(now)?.map_or(Ok(()), |why| Err(Refusal::Frozen(why)))
    }

    pub fn cluster_without(&mut self, now: Now, by: Person, name: &NodeName) -> Result<(), Refusal> {
        self.not_frozen(now)?;
        let record = self.with_view(now, |record, view| by_hand::without(record, view, name))?;
        Ok(self.save_record(now, record, format!("the cluster does not wait for {name}"), by)?)
    }

    pub fn cluster_abandon(&mut self, now: Now, by: Person, name: &NodeName) -> Result<(), Refusal> {
        self.not_frozen(now)?;
        let record = self.with_view(now, |record, view| by_hand::abandon(record, view, name))?;
        Ok(self.save_record(now, record, format!("the init on {name} is abandoned"), by)?)
    }

    pub fn cluster_unlock(&mut self, now: Now, by: Person) -> Result<(), Refusal> {
        self.not_frozen(now)?;
        let record = by_hand::unlock(&self.record)?;
        // Its grant may still lie on its disk: nobody is next until it has told, or a person vouches for it.
        if let Some(lock) = &self.record.lock {
            self.heard.remove(&lock.holder);
        }
        Ok(self.save_record(now, record, "the lock is released by hand".into(), by)?)
    }
}
