//! The first exchange of every boot: who is it, and what may it do?

use super::manifest::{image, roster_changed};
use super::ordering::{NewOrder, close, newest_order, order_key};
use super::{Asker, Core, CoreError, Now, admit, events, machine_row, name_of};
use crate::cluster::admission::{Caller, Known, Who, recognise};
use crate::cluster::orders::{self, Next, Situation};
use crate::store::rows::{Admitted, How, MACHINES, MachineRow, Pending, WINDOW};
use crate::store::{Read, StoreError, Tx};
use muster_protocol::class::{Class, classify};
use muster_protocol::hello::{Answer, Hello, Wait, wait};
use muster_protocol::ids::{Mac, NodeName};
use muster_protocol::inventory::Inventory;
use muster_protocol::keys::Fingerprint;
use muster_protocol::wire;
use std::collections::BTreeMap;

/// Keys per machine that wait for a person.
const PENDING: usize = 8;
/// A waiting key that was not heard for this long makes room for another one; a live one is not pushed out by a flood.
const GONE_MS: u64 = 180_000;
/// `last_seen` is saved no more often than this: it is for people, not for decisions.
const SEEN_EVERY_MS: u64 = 60_000;

impl Core {
    /// The exchange that is frozen for ever. An installed disk of this cluster boots on every path through here.
    pub fn hello(&mut self, now: Now, asker: &Asker, hello: &Hello) -> Result<Answer, CoreError> {
        let inventory: Option<Inventory> = wire::decode(&hello.inventory).ok();
        let marker = hello.marker.as_ref().filter(|marker| marker.cluster == self.trust.cluster);
        let installed = marker.is_some_and(|marker| marker.installed);
        self.traces.learn(asker.address, hello.mac);
        self.traces.note_hello(now.unix_ms, hello.mac);

        let who = self.who(now, asker, hello.mac, inventory.as_ref())?;
        let name = match &who {
            Who::Admitted(name) | Who::Taken(name) => Some(name.clone()),
            Who::Refused(refusal) => refusal.name().cloned(),
        };
        let known = !matches!(who, Who::Refused(_));
        if let Some(name) = &name {
            self.claims.note(now.mono_ms, name, asker.print());
            self.note_name(asker.print(), name);
            self.compare_numbers(now, name, known, &hello.seen, marker.map(|marker| marker.order))?;
        }
        let answer = match who {
            Who::Refused(refusal) => {
                if let Some(name) = refusal.name() {
                    let detected = inventory.as_ref().map(|found| classify(found, &self.config.hardware));
                    self.note_pending(now, asker, name, (hello.mac, detected), &refusal.to_string())?;
                }
                Answer::Wait(refusal.wait())
            }
            Who::Taken(name) => {
                self.store.write(|tx| take(tx, now, asker, &name))?;
                self.known_hello(now, asker, hello, inventory.as_ref(), &name)?
            }
            Who::Admitted(name) => self.known_hello(now, asker, hello, inventory.as_ref(), &name)?,
        };
        let answer = match answer {
            Answer::Wait(_) if installed => Answer::Boot,
            Answer::Wait(_) | Answer::Boot | Answer::Install(_) | Answer::FetchUki(_) => answer,
        };
        if let Some(name) = name {
            let wait = match &answer {
                Answer::Wait(wait) => Some(wait.clone()),
                Answer::Boot | Answer::Install(_) | Answer::FetchUki(_) => None,
            };
            if let Some(live) = self.shown(&name, asker)? {
                live.note_hello(asker, now, hello.uptime_ms, wait);
            }
        }
        Ok(answer)
    }

    fn who(
        &self,
        now: Now,
        asker: &Asker,
        mac: Mac,
        inventory: Option<&Inventory>,
    ) -> Result<Who, CoreError> {
        let view = self.store.view()?;
        let window = view.get(WINDOW, "window")?.filter(|window| now.unix_ms < window.until_unix_ms);
        let mut macs: Vec<Mac> =
            inventory.iter().flat_map(|found| found.nics.iter().map(|nic| nic.mac)).collect();
        if !macs.contains(&mac) {
            macs.push(mac);
        }
        let admitted = self.admitted_near(&view, asker, &macs)?;
        let detected = inventory.map_or(Class::Generic, |found| classify(found, &self.config.hardware));
        let serial = inventory.and_then(|found| found.dmi.serial.as_deref());
        let caller = Caller { key: asker.print(), macs: &macs, serial, detected };
        let known = Known {
            machines: &self.config.machines,
            admitted: &admitted,
            // A machine whose hardware cannot be read is not taken unseen.
            window: window.as_ref().filter(|_| inventory.is_some()).map(|window| window.taken.as_slice()),
        };
        Ok(recognise(&caller, &known))
    }

    /// The admitted keys that matter for this caller: its own, and those of the machines that its MACs name.
    fn admitted_near(
        &self,
        view: &impl Read,
        asker: &Asker,
        macs: &[Mac],
    ) -> Result<BTreeMap<NodeName, Fingerprint>, StoreError> {
        let mut near = BTreeMap::new();
        if let Some(name) = name_of(view, &asker.key)? {
            near.insert(name, asker.print());
        }
        let named =
            self.config.machines.iter().filter(|machine| machine.macs.iter().any(|mac| macs.contains(mac)));
        for machine in named {
            if let Some(admitted) = machine_row(view, &machine.name)?.admitted {
                near.insert(machine.name.clone(), admitted.key.fingerprint());
            }
        }
        Ok(near)
    }

    /// Its key is admitted: save what it says, then see what it may do.
    fn known_hello(
        &mut self,
        now: Now,
        asker: &Asker,
        hello: &Hello,
        inventory: Option<&Inventory>,
        name: &NodeName,
    ) -> Result<Answer, CoreError> {
        let ours =
            hello.marker.as_ref().filter(|marker| marker.cluster == self.trust.cluster && marker.installed);
        let cluster = self.trust.cluster;
        self.store.write(|tx| -> Result<(), StoreError> {
            note_seen(tx, now, asker, name, |row| {
                if let Some(inventory) = inventory {
                    row.inventory = Some(inventory.clone());
                }
                row.marker = hello.marker;
                row.installed |= ours.is_some();
            })?;
            match ours {
                Some(marker) => close(tx, now, cluster, name, asker.print(), marker.order),
                None => Ok(()),
            }
        })?;
        if let Some((a, b)) = self.claims.two_live(now.mono_ms, name) {
            let reason = format!(
                "two live machines say they are `{name}` (keys {a} and {b}): switch one off, or correct the MAC addresses in cluster.toml"
            );
            return Ok(Answer::Wait(Wait { code: wait::TWO_MACHINES, reason }));
        }
        if let Some(wait) = self.frozen_wait(now)? {
            return Ok(Answer::Wait(wait));
        }
        let Some(inventory) = inventory else {
            let reason = "its inventory is of a version that this muster does not know: update muster".into();
            return Ok(Answer::Wait(Wait { code: wait::GATE_CLOSED, reason }));
        };
        let Some(machine) = self.config.machine(name) else {
            return Ok(Answer::Wait(Wait {
                code: wait::NOT_DECLARED,
                reason: format!("`{name}` is no longer declared in cluster.toml"),
            }));
        };
        let member = self.member_gate(now, machine);
        self.store.write(|tx| -> Result<Answer, CoreError> {
            let order = newest_order(tx, name)?;
            let image = image(tx, &self.config, machine, inventory.arch)?;
            let situation = Situation {
                cluster: self.trust.cluster,
                key: asker.print(),
                machine,
                inventory,
                marker: hello.marker.as_ref(),
                order: order.as_ref(),
                image: image.as_ref().map(|image| image.index).map_err(String::as_str),
                member: member.as_ref().map(|_| ()).map_err(String::as_str),
                now_unix: now.unix(),
            };
            match (orders::next(&situation), image) {
                (Next::Boot, _) => Ok(Answer::Boot),
                (Next::Wait(wait), _) => Ok(Answer::Wait(wait)),
                (Next::Give(number), _) => match tx.signed(&order_key(number))? {
                    Some(bytes) => Ok(Answer::Install(wire::decode(&bytes)?)),
                    None => {
                        let reason = format!("order {number} is missing in the store: it is damaged");
                        Ok(Answer::Wait(Wait { code: wait::GATE_CLOSED, reason }))
                    }
                },
                (Next::Issue { disk, wipe }, Ok(image)) => {
                    let by = order.as_ref().and_then(|row| row.by);
                    let new = NewOrder { machine, key: asker.print(), disk, wipe, image, by };
                    Ok(Answer::Install(wire::decode(&self.issue(tx, now, new)?)?))
                }
                (Next::Issue { .. }, Err(missing)) => {
                    Ok(Answer::Wait(Wait { code: wait::NO_IMAGE, reason: missing }))
                }
            }
        })
    }

    /// A key that gets nothing is remembered, so that a person can compare and approve it.
    pub(super) fn note_pending(
        &mut self,
        now: Now,
        asker: &Asker,
        name: &NodeName,
        (mac, detected): (Mac, Option<Class>),
        why: &str,
    ) -> Result<(), CoreError> {
        self.store.write(|tx| {
            let mut row = machine_row(tx, name)?;
            if row.admitted.is_some_and(|known| known.key == asker.key) {
                return Ok(());
            }
            match row.pending.iter_mut().find(|pending| pending.key == asker.key) {
                Some(known) if now.unix_ms.saturating_sub(known.last_unix_ms) < SEEN_EVERY_MS => {
                    return Ok(());
                }
                Some(known) => known.last_unix_ms = now.unix_ms,
                None => {
                    if row.pending.len() >= PENDING && !make_room(&mut row.pending, now.unix_ms) {
                        return Ok(());
                    }
                    row.pending.push(Pending {
                        key: asker.key,
                        mac,
                        detected,
                        first_unix_ms: now.unix_ms,
                        last_unix_ms: now.unix_ms,
                    });
                    let what = format!("key {} asks from {mac}: {why}", asker.print());
                    events::note(tx, now.unix_ms, name.as_str(), what, None)?;
                }
            }
            tx.put(MACHINES, name.as_str(), &row)
        })?;
        Ok(())
    }
}

/// Drops the key that has been silent longest, if it has gone. Tells whether there is room now.
fn make_room(pending: &mut Vec<Pending>, unix_ms: u64) -> bool {
    let oldest = (0..pending.len()).min_by_key(|at| pending[*at].last_unix_ms);
    match oldest.filter(|at| unix_ms.saturating_sub(pending[*at].last_unix_ms) > GONE_MS) {
        Some(at) => {
            pending.remove(at);
            true
        }
        None => false,
    }
}

/// The window takes this key.
fn take(tx: &mut Tx, now: Now, asker: &Asker, name: &NodeName) -> Result<(), StoreError> {
    let mut row = machine_row(tx, name)?;
    admit(tx, name, &mut row, Admitted { key: asker.key, at_unix_ms: now.unix_ms, how: How::Window })?;
    tx.put(MACHINES, name.as_str(), &row)?;
    if let Some(mut window) = tx.get(WINDOW, "window")? {
        window.taken.push(name.clone());
        tx.put(WINDOW, "window", &window)?;
    }
    let what = format!("key {} admitted by the open window", asker.print());
    events::note(tx, now.unix_ms, name.as_str(), what, None)
}

/// Saves what a machine said, if it says anything new.
pub(super) fn note_seen(
    tx: &mut Tx,
    now: Now,
    asker: &Asker,
    name: &NodeName,
    change: impl FnOnce(&mut MachineRow),
) -> Result<(), StoreError> {
    let before = machine_row(tx, name)?;
    let mut row = before.clone();
    change(&mut row);
    if let std::net::IpAddr::V4(address) = asker.address {
        row.address = Some(address);
    }
    if row.address != before.address {
        roster_changed(tx)?;
    }
    if row != before || now.unix_ms.saturating_sub(row.last_seen_unix_ms) > SEEN_EVERY_MS {
        row.last_seen_unix_ms = now.unix_ms;
        tx.put(MACHINES, name.as_str(), &row)?;
    }
    Ok(())
}
