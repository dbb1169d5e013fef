//! `choose`: exactly one disk is the one that the order names, and the order allows to write what is on it.
//!
//! Two pure questions. [`choose`]: which of this machine's disks is meant? [`permit`]: may it be written, and is this
//! a beginning or a resumption? Every refusal is a value with its facts; none of them can be overruled from here.

use muster_protocol::ids::{ClusterId, Number};
use muster_protocol::inventory::{Bus, Contents, Disk, DiskId};
use muster_protocol::marker::{Marker, MarkerState};
use muster_protocol::order::{Order, PlanId, Wipe};

/// A disk of this machine as the kernel shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub disk: Disk,
    /// As [`super::busy::in_use`] says it.
    pub in_use: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the order names a disk by size alone; a serial number or WWN is needed")]
    Nameless,
    #[error("no disk here is {wanted}; there is {present}")]
    NotFound { wanted: String, present: String },
    #[error("{names} all answer to {wanted}: which one is meant cannot be told")]
    Ambiguous { wanted: String, names: String },
    #[error("disk `{name}` is removable or on USB, and such a disk is never a target")]
    Removable { name: String },
    #[error("disk `{name}` is in use: {uses}")]
    InUse { name: String, uses: String },
    #[error("disk `{name}` changed while it was looked at: {what}")]
    Changed { name: String, what: String },
    #[error("the order is for node key {order}, this machine's is {mine}")]
    OtherKey { order: String, mine: String },
    #[error("order {order} is not newer than what the disk remembers: {marker}")]
    Spent { order: Number, marker: Number },
    #[error("the disk belongs to another cluster: {found}\nhint: muster node install {node} --wipe {plan}")]
    OtherCluster { found: String, node: String, plan: PlanId },
    #[error("the disk is not empty: {found}\nhint: muster node install {node} --wipe {plan}")]
    NotEmpty { found: String, node: String, plan: PlanId },
    #[error(
        "the disk changed since its wipe was allowed as plan {allowed}: now it is plan {now} ({found})\n\
         hint: muster node install {node} --wipe {now}"
    )]
    Voided { allowed: PlanId, now: PlanId, found: String, node: String },
}

/// The one disk that is meant.
pub fn choose<'a>(wanted: &DiskId, disks: &'a [Candidate]) -> Result<&'a Candidate, Refusal> {
    if wanted.wwn.is_none() && wanted.serial.is_none() {
        return Err(Refusal::Nameless);
    }
    let meant: Vec<&Candidate> = disks.iter().filter(|candidate| is(&candidate.disk.id, wanted)).collect();
    let names = |disks: &[&Candidate]| {
        disks.iter().map(|candidate| candidate.disk.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let one = match meant.as_slice() {
        [one] => *one,
        [] => {
            let present = disks.iter().map(|candidate| words(&candidate.disk.id)).collect::<Vec<_>>();
            let present = if present.is_empty() { "none".into() } else { present.join("; ") };
            return Err(Refusal::NotFound { wanted: words(wanted), present });
        }
        twins => return Err(Refusal::Ambiguous { wanted: words(wanted), names: names(twins) }),
    };
    let name = one.disk.name.clone();
    let on_usb = match one.disk.bus {
        Bus::Usb => true,
        Bus::Nvme | Bus::Sata | Bus::Virtio | Bus::Mmc | Bus::Other => false,
    };
    if one.disk.removable || on_usb {
        return Err(Refusal::Removable { name });
    }
    if !one.in_use.is_empty() {
        return Err(Refusal::InUse { name, uses: one.in_use.join(", ") });
    }
    Ok(one)
}

/// Every name that the order gives must be the disk's, and the size; what the order leaves out may be anything.
fn is(disk: &DiskId, wanted: &DiskId) -> bool {
    let same = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
    same(&wanted.wwn, &disk.wwn) && same(&wanted.serial, &disk.serial) && wanted.size_bytes == disk.size_bytes
}

fn words(id: &DiskId) -> String {
    let mut words = Vec::new();
    words.extend(id.wwn.iter().map(|wwn| format!("wwn {wwn}")));
    words.extend(id.serial.iter().map(|serial| format!("serial {serial}")));
    words.push(format!("{} bytes", id.size_bytes));
    words.join(", ")
}

/// How an install begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// First start. `blank`: the emptiness test passed, so what the image leaves zero probably is zero.
    Fresh { blank: bool },
    /// The marker says that this very order was at work here.
    Resume,
    /// The marker says that this very order is done: only its second copy may be missing.
    Done,
}

/// What the marker alone decides: a resumption needs no evidence, since the order's own writes changed the disk.
pub fn remembered(
    order: &Order,
    cluster: ClusterId,
    marker: Option<&Marker>,
) -> Result<Option<Begin>, Refusal> {
    let Some(marker) = marker.filter(|marker| marker.cluster == cluster) else { return Ok(None) };
    let same = order.number == marker.order && order.key == marker.key;
    let spent = Refusal::Spent { order: order.number, marker: marker.order };
    match marker.state {
        MarkerState::Installing if same => Ok(Some(Begin::Resume)),
        MarkerState::Installed if same => Ok(Some(Begin::Done)),
        MarkerState::Installing | MarkerState::Installed if order.number <= marker.order => Err(spent),
        MarkerState::Installing | MarkerState::Installed => Ok(None),
    }
}

/// Whether the order allows to write over these contents.
pub fn permit(
    order: &Order,
    cluster: ClusterId,
    contents: &Contents,
    marker: Option<&Marker>,
) -> Result<Begin, Refusal> {
    if contents.busy {
        return Err(Refusal::InUse { name: words(&order.disk), uses: contents.found.join(", ") });
    }
    if let Some(begin) = remembered(order, cluster, marker)? {
        return Ok(begin);
    }
    let plan = PlanId::of(&order.disk, &contents.evidence);
    let found = contents.found.join(", ");
    let node = order.node.to_string();
    match order.wipe {
        Wipe::Plan(allowed) if allowed == plan => Ok(Begin::Fresh { blank: contents.empty }),
        Wipe::Plan(allowed) => Err(Refusal::Voided { allowed, now: plan, found, node }),
        Wipe::OnlyEmpty if marker.is_some_and(|marker| marker.cluster != cluster) => {
            Err(Refusal::OtherCluster { found, node, plan })
        }
        Wipe::OnlyEmpty if contents.empty => Ok(Begin::Fresh { blank: true }),
        Wipe::OnlyEmpty => Err(Refusal::NotEmpty { found, node, plan }),
    }
}
