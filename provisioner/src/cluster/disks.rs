//! Which disk is a machine's: chosen by the rule in `cluster.toml`, named by identity and size, never by kernel name.

use crate::config::meant::{DiskBus, DiskRule, MIN_DISK_BYTES};
use muster_protocol::inventory::{Bus, Disk};
use muster_protocol::order::PlanId;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDisk {
    #[error("no fixed disk of at least 24 GiB was found ({seen} disks seen)")]
    None { seen: usize },
    #[error("there are {} fixed disks ({}), and cluster.toml does not say which (hint: disk = \"serial:…\")", .disks.len(), .disks.join(", "))]
    Several { disks: Vec<String> },
    #[error("two disks are of equal size ({}), so neither is the one (hint: disk = \"serial:…\")", .disks.join(", "))]
    EqualSize { disks: Vec<String> },
    #[error("two disks have the same identity ({disk}): they cannot be told apart")]
    Twins { disk: String },
    #[error("{disk} tells neither WWN nor serial, so no order can name it")]
    Nameless { disk: String },
    #[error("{disk} is too small: at least 24 GiB are needed")]
    TooSmall { disk: String },
    #[error("{disk} is removable or hangs on USB")]
    NotFixed { disk: String },
    #[error("{disk} is in use: {}", .found.join(", "))]
    Busy { disk: String, found: Vec<String> },
    #[error(
        "no disk has the plan id {plan} now: it names the disk and what is on it, and one of the two has changed"
    )]
    NoSuchPlan { plan: PlanId },
    #[error("{disk} was not looked at")]
    NotLookedAt { disk: String },
}

/// The disk that the rule means.
pub fn choose<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, NoDisk> {
    let one = match rule {
        DiskRule::Only => only(&fixed(disks), disks.len())?,
        DiskRule::Bus(bus) => {
            let on_bus: Vec<&Disk> = fixed(disks).into_iter().filter(|disk| fits(*bus, disk.bus)).collect();
            only(&on_bus, disks.len())?
        }
        DiskRule::Largest => extreme(&fixed(disks), disks.len(), |size| size)?,
        DiskRule::Smallest => extreme(&fixed(disks), disks.len(), |size| u64::MAX - size)?,
        DiskRule::Serial(serial) => named(disks, |disk| disk.id.serial.as_deref() == Some(serial))?,
        DiskRule::Wwn(wwn) => named(disks, |disk| disk.id.wwn.as_deref() == Some(wwn))?,
    };
    usable(one, disks)
}

/// The disk that a plan id names: its identity and what was found on it are both in the id.
pub fn by_plan(plan: PlanId, disks: &[Disk]) -> Result<&Disk, NoDisk> {
    let one = disks.iter().find(|disk| plan_of(disk) == Some(plan)).ok_or(NoDisk::NoSuchPlan { plan })?;
    usable(one, disks)
}

/// What a person confirms; `None` when the disk was not looked at.
pub fn plan_of(disk: &Disk) -> Option<PlanId> {
    disk.contents.as_ref().map(|contents| PlanId::of(&disk.id, &contents.evidence))
}

/// For people: name of this boot, model, serial, size.
pub fn describe(disk: &Disk) -> String {
    let model = disk.model.as_deref().unwrap_or("unknown model");
    let serial = disk.id.serial.as_deref().or(disk.id.wwn.as_deref()).unwrap_or("no serial");
    let tenths = (u128::from(disk.id.size_bytes) * 10) >> 30;
    format!("{} ({model}, {serial}, {}.{} GiB)", disk.name, tenths / 10, tenths % 10)
}

fn fixed(disks: &[Disk]) -> Vec<&Disk> {
    disks.iter().filter(|disk| is_fixed(disk) && disk.id.size_bytes >= MIN_DISK_BYTES).collect()
}

fn is_fixed(disk: &Disk) -> bool {
    !disk.removable
        && match disk.bus {
            Bus::Usb => false,
            Bus::Nvme | Bus::Sata | Bus::Virtio | Bus::Mmc | Bus::Other => true,
        }
}

fn fits(want: DiskBus, have: Bus) -> bool {
    match have {
        Bus::Nvme => want == DiskBus::Nvme,
        Bus::Sata => want == DiskBus::Sata,
        Bus::Virtio => want == DiskBus::Virtio,
        Bus::Mmc => want == DiskBus::Mmc,
        Bus::Usb | Bus::Other => false,
    }
}

fn only<'a>(disks: &[&'a Disk], seen: usize) -> Result<&'a Disk, NoDisk> {
    match disks {
        [] => Err(NoDisk::None { seen }),
        [one] => Ok(one),
        several => Err(NoDisk::Several { disks: several.iter().map(|disk| describe(disk)).collect() }),
    }
}

fn extreme<'a>(disks: &[&'a Disk], seen: usize, rank: impl Fn(u64) -> u64) -> Result<&'a Disk, NoDisk> {
    let best = disks.iter().map(|disk| rank(disk.id.size_bytes)).max();
    let best: Vec<&&Disk> = disks.iter().filter(|disk| Some(rank(disk.id.size_bytes)) == best).collect();
    match best.as_slice() {
        [] => Err(NoDisk::None { seen }),
        [one] => Ok(one),
        several => Err(NoDisk::EqualSize { disks: several.iter().map(|disk| describe(disk)).collect() }),
    }
}

fn named(disks: &[Disk], is: impl Fn(&Disk) -> bool) -> Result<&Disk, NoDisk> {
    disks.iter().find(|disk| is(disk)).ok_or(NoDisk::None { seen: disks.len() })
}

/// Refusals that no rule and no person can overrule.
fn usable<'a>(disk: &'a Disk, all: &[Disk]) -> Result<&'a Disk, NoDisk> {
    let text = || describe(disk);
    if !is_fixed(disk) {
        return Err(NoDisk::NotFixed { disk: text() });
    }
    if disk.id.size_bytes < MIN_DISK_BYTES {
        return Err(NoDisk::TooSmall { disk: text() });
    }
    if disk.id.wwn.is_none() && disk.id.serial.is_none() {
        return Err(NoDisk::Nameless { disk: text() });
    }
    if all.iter().filter(|other| other.id == disk.id).count() > 1 {
        return Err(NoDisk::Twins { disk: text() });
    }
    match &disk.contents {
        None => Err(NoDisk::NotLookedAt { disk: text() }),
        Some(contents) if contents.busy => Err(NoDisk::Busy { disk: text(), found: contents.found.clone() }),
        Some(_) => Ok(disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::Digest;
    use muster_protocol::inventory::{Contents, DiskId};

    fn disk(name: &str, gib: u64) -> Disk {
        Disk {
            name: name.into(),
            id: DiskId { wwn: None, serial: Some(format!("S-{name}")), size_bytes: gib << 30 },
            model: None,
            bus: Bus::Nvme,
            removable: false,
            rotational: false,
            logical_block_bytes: 512,
            contents: Some(Contents {
                empty: true,
                evidence: Digest::of(name.as_bytes()),
                found: Vec::new(),
                busy: false,
            }),
        }
    }

    fn name(result: Result<&Disk, NoDisk>) -> String {
        result.map(|disk| disk.name.clone()).unwrap()
    }

    #[test]
    fn the_only_fixed_disk_is_taken_and_two_are_not() {
        let mut stick = disk("sda", 64);
        stick.bus = Bus::Usb;
        let small = disk("mmcblk0", 8);
        assert_eq!(name(choose(&DiskRule::Only, &[stick.clone(), disk("a", 100), small])), "a");
        let two = [disk("a", 100), disk("b", 100)];
        assert!(matches!(choose(&DiskRule::Only, &two), Err(NoDisk::Several { .. })));
        assert_eq!(choose(&DiskRule::Only, &[stick]), Err(NoDisk::None { seen: 1 }));
    }

    #[test]
    fn the_largest_of_equals_is_nobody() {
        let disks = [disk("a", 100), disk("b", 200), disk("c", 50)];
        assert_eq!(name(choose(&DiskRule::Largest, &disks)), "b");
        assert_eq!(name(choose(&DiskRule::Smallest, &disks)), "c");
        let equal = [disk("a", 100), disk("b", 100)];
        assert!(matches!(choose(&DiskRule::Largest, &equal), Err(NoDisk::EqualSize { .. })));
    }

    #[test]
    fn a_disk_is_described_with_its_size_in_gib() {
        assert_eq!(describe(&disk("sda", 32)), "sda (unknown model, S-sda, 32.0 GiB)");
        let mut odd = disk("nvme0n1", 0);
        odd.id.size_bytes = 1_000_204_886_016;
        assert_eq!(describe(&odd), "nvme0n1 (unknown model, S-nvme0n1, 931.5 GiB)");
    }

    #[test]
    fn what_must_never_be_written_is_refused_even_when_named() {
        let rule = DiskRule::Serial("S-a".into());
        let with = |change: fn(&mut Disk)| {
            let mut one = disk("a", 100);
            change(&mut one);
            choose(&rule, &[one]).map(|_| ()).unwrap_err()
        };
        assert!(matches!(with(|d| d.removable = true), NoDisk::NotFixed { .. }));
        assert!(matches!(with(|d| d.bus = Bus::Usb), NoDisk::NotFixed { .. }));
        assert!(matches!(with(|d| d.id.size_bytes = 1 << 30), NoDisk::TooSmall { .. }));
        assert!(matches!(with(|d| d.contents = None), NoDisk::NotLookedAt { .. }));
        assert!(matches!(with(|d| d.contents.as_mut().unwrap().busy = true), NoDisk::Busy { .. }));
        assert!(matches!(choose(&rule, &[disk("a", 100), disk("a", 100)]), Err(NoDisk::Twins { .. })));
        let mut nameless = disk("a", 100);
        nameless.id.serial = None;
        assert!(matches!(choose(&DiskRule::Only, &[nameless]), Err(NoDisk::Nameless { .. })));
    }

    #[test]
    fn a_bus_chooses_only_when_one_disk_hangs_on_it() {
        let mut sata = disk("sda", 100);
        sata.bus = Bus::Sata;
        let disks = [sata, disk("nvme0n1", 100)];
        assert_eq!(name(choose(&DiskRule::Bus(DiskBus::Nvme), &disks)), "nvme0n1");
        assert!(matches!(choose(&DiskRule::Bus(DiskBus::Mmc), &disks), Err(NoDisk::None { .. })));
    }

    #[test]
    fn a_plan_id_is_void_once_the_disk_changed() {
        let before = disk("a", 100);
        let plan = plan_of(&before).unwrap();
        let mut after = before.clone();
        after.contents.as_mut().unwrap().evidence = Digest([9; 32]);
        assert_eq!(name(by_plan(plan, &[disk("b", 100), before])), "a");
        assert_eq!(by_plan(plan, &[after]), Err(NoDisk::NoSuchPlan { plan }));
    }
}
