//! An order's life: open, held by one key for one disk, done; or superseded by a person. And what a machine hears.
//!
//! A disk whose marker says `installed` boots, whatever else is known: only an order with a higher number, which a
//! person asked for, changes that. An order comes of itself once in a machine's life, for an empty disk.

use super::disks::{self, NoDisk};
use crate::config::meant::{Install, Machine};
use crate::store::rows::{OrderRow, OrderState};
use muster_protocol::hello::{MarkerSummary, Wait, wait};
use muster_protocol::ids::{ClusterId, Digest, Number};
use muster_protocol::inventory::{Disk, DiskId, Inventory};
use muster_protocol::keys::Fingerprint;
use muster_protocol::order::{PlanId, Wipe};

/// All that the decision looks at, about a machine whose key is admitted.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub cluster: ClusterId,
    pub key: Fingerprint,
    pub machine: &'a Machine,
    pub inventory: &'a Inventory,
    pub marker: Option<&'a MarkerSummary>,
    /// The newest order of this machine.
    pub order: Option<&'a OrderRow>,
    /// The image that would be ordered now, or what is missing for one.
    pub image: Result<Digest, &'a str>,
    /// What etcd's members say about writing this disk.
    pub member: Result<(), &'a str>,
    pub now_unix: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Boot,
    /// The order that exists.
    Give(Number),
    /// A new order, in place of an open one that no longer fits.
    Issue {
        disk: DiskId,
        wipe: Wipe,
    },
    Wait(Wait),
}

fn stop(code: u16, reason: impl Into<String>) -> Next {
    Next::Wait(Wait { code, reason: reason.into() })
}

impl Situation<'_> {
    fn installed(&self) -> Option<Number> {
        self.marker
            .filter(|marker| marker.cluster == self.cluster && marker.installed)
            .map(|marker| marker.order)
    }

    /// An order that can still be carried out by this key.
    fn live(&self) -> Option<&OrderRow> {
        self.order.filter(|row| {
            row.order.key == self.key && matches!(row.state, OrderState::Open | OrderState::Held { .. })
        })
    }
}

pub fn next(now: &Situation<'_>) -> Next {
    if let Some(installed) = now.installed() {
        return match now.live() {
            Some(row)
                if row.order.number > installed
                    && now.member.is_ok()
                    && row.order.expires_at > now.now_unix =>
            {
                Next::Give(row.order.number)
            }
            Some(_) | None => Next::Boot,
        };
    }
    if !now.inventory.firmware.uefi {
        return stop(wait::NO_UEFI, "this firmware is not UEFI: it cannot boot from its disk");
    }
    if let Err(why) = now.member {
        return stop(wait::MEMBER_STILL_LISTED, why);
    }
    let name = &now.machine.name;
    match now.order.map(|row| (row, &row.state)) {
        Some((row, OrderState::Open)) if now.live().is_some() => open(now, row),
        Some((row, OrderState::Held { disk, .. })) if now.live().is_some() => held(now, row, disk),
        Some((row, OrderState::Held { .. })) => stop(
            wait::INSTALL_BY_HAND,
            format!(
                "order {} is held by key {} (hint: muster node install {name})",
                row.order.number, row.order.key
            ),
        ),
        Some((row, OrderState::Done { .. })) => stop(
            wait::INSTALL_BY_HAND,
            format!(
                "it was installed by order {}, but its disk does not say so (hint: muster node install {name})",
                row.order.number
            ),
        ),
        Some((_, OrderState::Open | OrderState::Superseded { .. })) | None => unordered(now),
    }
}

/// Nobody holds it yet: it may be replaced by one that fits better.
fn open(now: &Situation<'_>, row: &OrderRow) -> Next {
    let disk = now.inventory.disks.iter().find(|disk| disk.id == row.order.disk);
    let current = now.image.ok().is_none_or(|image| image == row.order.image);
    let wiped_as_planned = match (disk, row.order.wipe) {
        (None, _) => false,
        (Some(disk), Wipe::OnlyEmpty) => is_empty(disk),
        (Some(disk), Wipe::Plan(plan)) => disks::plan_of(disk) == Some(plan),
    };
    let expired = row.order.expires_at <= now.now_unix;
    if wiped_as_planned && current && !expired {
        return Next::Give(row.order.number);
    }
    match (row.order.wipe, disk) {
        (Wipe::Plan(plan), _) if !wiped_as_planned => stop(
            wait::DISK_NOT_EMPTY,
            format!(
                "the disk is no longer as it was when plan {plan} was approved (hint: muster plan {})",
                now.machine.name
            ),
        ),
        // The person's choice stands; only number, expiry and image are renewed.
        (Wipe::Plan(plan), Some(disk)) => Next::Issue { disk: disk.id.clone(), wipe: Wipe::Plan(plan) },
        (Wipe::OnlyEmpty, _) | (Wipe::Plan(_), None) => unordered(now),
    }
}

fn held(now: &Situation<'_>, row: &OrderRow, disk: &DiskId) -> Next {
    let name = &now.machine.name;
    let number = row.order.number;
    if !now.inventory.disks.iter().any(|seen| seen.id == *disk) {
        return stop(
            wait::NO_DISK,
            format!("order {number} is for a disk that is gone (hint: muster node install {name})"),
        );
    }
    if row.order.expires_at <= now.now_unix {
        return stop(
            wait::INSTALL_BY_HAND,
            format!("order {number} was begun and has expired (hint: muster node install {name})"),
        );
    }
    Next::Give(number)
}

/// An empty disk is ordered at admission, if the machine's entry says so.
fn unordered(now: &Situation<'_>) -> Next {
    let name = &now.machine.name;
    if let Err(missing) = now.image {
        return stop(wait::NO_IMAGE, missing);
    }
    let disk = match disks::choose(&now.machine.disk, &now.inventory.disks) {
        Ok(disk) => disk,
        Err(why) => return stop(wait::NO_DISK, why.to_string()),
    };
    if let Some(reason) = not_empty(now, disk) {
        return stop(wait::DISK_NOT_EMPTY, reason);
    }
    match now.machine.install {
        Install::Auto => Next::Issue { disk: disk.id.clone(), wipe: Wipe::OnlyEmpty },
        Install::Manual => {
            stop(wait::INSTALL_BY_HAND, format!("install = \"manual\" (hint: muster node install {name})"))
        }
    }
}

fn is_empty(disk: &Disk) -> bool {
    disk.contents.as_ref().is_some_and(|contents| contents.empty)
}

fn not_empty(now: &Situation<'_>, disk: &Disk) -> Option<String> {
    let name = &now.machine.name;
    let hint = disks::plan_of(disk)
        .map_or_else(String::new, |plan| format!(" (hint: muster node install {name} --wipe {plan})"));
    if now.marker.is_some_and(|marker| marker.cluster != now.cluster) {
        return Some(format!("{} carries the marker of another cluster{hint}", disks::describe(disk)));
    }
    if is_empty(disk) {
        return None;
    }
    let found = disk.contents.as_ref().map(|contents| contents.found.join(", ")).unwrap_or_default();
    Some(format!("{} is not empty: {found}{hint}", disks::describe(disk)))
}

/// Why a person's order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Disk(#[from] NoDisk),
    #[error("{reason}")]
    NotEmpty { reason: String },
    #[error("{missing}")]
    NoImage { missing: String },
    #[error("{why}: writing its disk would lose a member of etcd")]
    Member { why: String },
    #[error("its firmware is not UEFI: it could not boot from its disk")]
    NoUefi,
}

/// `muster node install NAME [--wipe PLAN-ID]`: supersedes whatever order there is.
pub fn by_hand(now: &Situation<'_>, plan: Option<PlanId>) -> Result<(DiskId, Wipe), Refused> {
    if !now.inventory.firmware.uefi {
        return Err(Refused::NoUefi);
    }
    now.image.map_err(|missing| Refused::NoImage { missing: missing.into() })?;
    now.member.map_err(|why| Refused::Member { why: why.into() })?;
    match plan {
        Some(plan) => {
            let disk = disks::by_plan(plan, &now.inventory.disks)?;
            Ok((disk.id.clone(), Wipe::Plan(plan)))
        }
        None => {
            let disk = disks::choose(&now.machine.disk, &now.inventory.disks)?;
            match not_empty(now, disk) {
                Some(reason) => Err(Refused::NotEmpty { reason }),
                None => Ok((disk.id.clone(), Wipe::OnlyEmpty)),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Save `held(key, disk)`, then answer.
    Take,
    /// It is held by this key for this disk already: the same answer again.
    Again,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    #[error("there is no order {0}")]
    Unknown(Number),
    #[error("order {0} is for another key")]
    OtherKey(Number),
    #[error("order {0} is for another disk")]
    OtherDisk(Number),
    #[error("order {0} is done")]
    Done(Number),
    #[error("order {0} was superseded by {1}")]
    Superseded(Number, Number),
    #[error("order {0} has expired")]
    Expired(Number),
}

/// Compare and set: open → held(key, disk).
pub fn claim(
    number: Number,
    row: Option<&OrderRow>,
    key: Fingerprint,
    disk: &DiskId,
    now_unix: u64,
) -> Result<Claim, ClaimRefused> {
    let row = row.ok_or(ClaimRefused::Unknown(number))?;
    if row.order.key != key {
        return Err(ClaimRefused::OtherKey(number));
    }
    if row.order.disk != *disk {
        return Err(ClaimRefused::OtherDisk(number));
    }
    match &row.state {
        OrderState::Open if row.order.expires_at <= now_unix => Err(ClaimRefused::Expired(number)),
        OrderState::Open => Ok(Claim::Take),
        OrderState::Held { .. } => Ok(Claim::Again),
        OrderState::Done { .. } => Err(ClaimRefused::Done(number)),
        OrderState::Superseded { by } => Err(ClaimRefused::Superseded(number, *by)),
    }
}

/// The disk says `installed(n)` under this key: order n is done, also when it was never seen to be claimed.
pub fn closes(row: &OrderRow, key: Fingerprint) -> bool {
    row.order.key == key && matches!(row.state, OrderState::Open | OrderState::Held { .. })
}

#[cfg(test)]
#[path = "orders_tests.rs"]
mod tests;
