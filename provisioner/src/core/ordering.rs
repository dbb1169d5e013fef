//! Orders: made, claimed, closed. What is decided about them is in `cluster::orders`.

use super::manifest::{Image, VALID_S};
use super::{Asker, Core, CoreError, Now, events, machine_row, name_of};
use crate::cluster::by_hand::may_install;
use crate::cluster::evidence::Server;
use crate::cluster::orders::{self, Claim};
use crate::config::meant::Machine;
use crate::store::rows::{MACHINES, ORDERS, OrderRow, OrderState, number_key};
use crate::store::{Read, StoreError, Tx};
use muster_protocol::hello::MarkerSummary;
use muster_protocol::ids::{ClusterId, NodeName, Number, Role};
use muster_protocol::inventory::DiskId;
use muster_protocol::keys::Fingerprint;
use muster_protocol::order::{Order, Wipe};
use muster_protocol::signed::Signed;
use muster_protocol::sync::{self as wire_sync, ClaimAnswer};
use muster_protocol::wire;

/// What a new order says.
pub(super) struct NewOrder<'a> {
    pub(super) machine: &'a Machine,
    pub(super) key: Fingerprint,
    pub(super) disk: DiskId,
    pub(super) wipe: Wipe,
    pub(super) image: Image,
    pub(super) by: Option<Fingerprint>,
}

impl Core {
    /// What etcd's members say about writing this machine's disk.
    pub(super) fn member_gate(&self, now: Now, machine: &Machine) -> Result<(), String> {
        match (machine.role, machine.address) {
            (Role::Server, Some(cidr)) => {
                let server = Server { name: machine.name.clone(), address: cidr.address };
                self.with_view(now, |record, view| may_install(record, view, &server))
            }
            (Role::Server, None) | (Role::Worker, _) => Ok(()),
        }
    }

    /// Makes an order, in place of the one there was.
    pub(super) fn issue(&self, tx: &mut Tx, now: Now, new: NewOrder<'_>) -> Result<Vec<u8>, StoreError> {
        let NewOrder { machine, key, disk, wipe, image, by } = new;
        let number = tx.fresh(self.online.number)?;
        let name = &machine.name;
        let order = Order {
            number,
            node: name.clone(),
            key,
            class: machine.class,
            disk,
            wipe,
            image: image.index,
            uki: image.uki.digest,
            uki_bytes: image.uki.bytes,
            loader: image.loader.digest,
            loader_bytes: image.loader.bytes,
            expires_at: now.unix() + VALID_S,
        };
        if let Some(mut old) = newest_order(tx, name)?
            && !matches!(old.state, OrderState::Done { .. })
        {
            old.state = OrderState::Superseded { by: number };
            tx.put(ORDERS, &number_key(old.order.number), &old)?;
        }
        let bytes = wire::encode(&Signed::by_online(self.trust.cluster, &self.online, &order));
        tx.put_signed(&order_key(number), &bytes)?;
        let disk = order.disk.serial.clone().or(order.disk.wwn.clone()).unwrap_or_default();
        events::note(
            tx,
            now.unix_ms,
            name.as_str(),
            format!("order {number} to install on disk {disk}"),
            by,
        )?;
        let row = OrderRow { order, state: OrderState::Open, made_unix_ms: now.unix_ms, by };
        tx.put(ORDERS, &number_key(number), &row)?;
        let mut machine = machine_row(tx, name)?;
        machine.order = Some(number);
        tx.put(MACHINES, name.as_str(), &machine)?;
        Ok(bytes)
    }

    /// Compare and set: the order is this key's for this disk, or it is refused. Saved before it is answered.
    pub fn claim(
        &mut self,
        now: Now,
        asker: &Asker,
        claim: &wire_sync::Claim,
    ) -> Result<ClaimAnswer, CoreError> {
        let refused = |reason: String| Ok(ClaimAnswer::Refused { reason });
        if let Some(why) = self.frozen(now)? {
            return refused(why);
        }
        let Some(name) = name_of(&self.store.view()?, &asker.key)? else {
            return refused("this key is not admitted".into());
        };
        if let Some((a, b)) = self.claims.two_live(now.mono_ms, &name) {
            return refused(format!("two live machines say they are `{name}` (keys {a} and {b})"));
        }
        if let Some(machine) = self.config.machine(&name)
            && let Err(why) = self.member_gate(now, machine)
        {
            return refused(why);
        }
        let answer = self.store.write(|tx| -> Result<_, CoreError> {
            let row = tx.get(ORDERS, &number_key(claim.order))?;
            match orders::claim(claim.order, row.as_ref(), asker.print(), &claim.disk, now.unix()) {
                Err(refusal) => return Ok(Err(refusal.to_string())),
                Ok(Claim::Again) => {}
                Ok(Claim::Take) => hold(tx, now, asker.print(), row, &claim.disk)?,
            }
            let (_, manifest) = match self.manifest(tx, now, &name, Number::default())? {
                Ok(manifest) => manifest,
                Err(missing) => return Ok(Err(missing)),
            };
            let (_, roster) = self.roster(tx)?;
            Ok(Ok((manifest, roster)))
        })?;
        match answer {
            Ok((manifest, roster)) => {
                Ok(ClaimAnswer::Held { manifest: wire::decode(&manifest)?, roster: wire::decode(&roster)? })
            }
            Err(reason) => refused(reason),
        }
    }
}

pub(super) fn order_key(number: Number) -> String {
    format!("order/{}", number_key(number))
}

pub(super) fn newest_order(view: &impl Read, name: &NodeName) -> Result<Option<OrderRow>, StoreError> {
    match machine_row(view, name)?.order {
        Some(number) => view.get(ORDERS, &number_key(number)),
        None => Ok(None),
    }
}

fn hold(
    tx: &mut Tx,
    now: Now,
    key: Fingerprint,
    row: Option<OrderRow>,
    disk: &DiskId,
) -> Result<(), StoreError> {
    let Some(mut row) = row else { return Ok(()) };
    row.state = OrderState::Held { key, disk: disk.clone(), at_unix_ms: now.unix_ms };
    tx.put(ORDERS, &number_key(row.order.number), &row)?;
    events::note(
        tx,
        now.unix_ms,
        row.order.node.as_str(),
        format!("order {} is held", row.order.number),
        None,
    )
}

/// The disk says `installed(n)`.
pub(super) fn close(
    tx: &mut Tx,
    now: Now,
    cluster: ClusterId,
    name: &NodeName,
    key: Fingerprint,
    number: Number,
) -> Result<(), StoreError> {
    let Some(mut row) = tx.get(ORDERS, &number_key(number))? else { return Ok(()) };
    if row.order.node != *name || !orders::closes(&row, key) {
        return Ok(());
    }
    row.state = OrderState::Done { at_unix_ms: now.unix_ms };
    tx.put(ORDERS, &number_key(number), &row)?;
    // Its next boot comes before its next hello, and must get the image that is on its disk now.
    let mut machine = machine_row(tx, name)?;
    machine.installed = true;
    machine.marker = Some(MarkerSummary {
        cluster,
        order: number,
        installed: true,
        uki: row.order.uki,
        image: row.order.image,
    });
    tx.put(MACHINES, name.as_str(), &machine)?;
    events::note(tx, now.unix_ms, name.as_str(), format!("order {number} is done: installed"), None)
}
