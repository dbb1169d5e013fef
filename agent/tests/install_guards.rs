//! Which disks are never written (test plan T63): every case ends with the reason in words and not one write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod install_support;

use install_support::disk::{Kept, Luck, MemoryDisk};
use install_support::lab::{Lab, OrderState};
use install_support::{CLUSTER, DISK_BYTES, SMALL, World, candidate, disk_id, noise, number};
use muster_agent::install::busy::in_use;
use muster_agent::install::choose::Candidate;
use muster_agent::install::claim::{ClaimError, held};
use muster_agent::install::gpt;
use muster_agent::install::marker::settle;
use muster_agent::install::survey::survey;
use muster_protocol::class::Class;
use muster_protocol::ids::{Arch, ClusterId, Digest};
use muster_protocol::inventory::{Bus, DiskId};
use muster_protocol::keys::SecretKey;
use muster_protocol::marker::{Marker, MarkerState};
use muster_protocol::order::{PlanId, Wipe};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

/// What a case changes about a sound machine with a blank disk.
struct Case {
    world: World,
    disk: MemoryDisk,
    candidates: Option<Vec<Candidate>>,
}

/// Runs the install; `change` makes the one fault, `reason` is how the refusal must be worded.
fn refused(reason: &str, change: impl FnOnce(&mut Case)) {
    let mut case = Case { world: World::new(), disk: MemoryDisk::new(DISK_BYTES, 512), candidates: None };
    change(&mut case);
    case.disk.power_on(Kept::Everything, &mut Luck(0));
    let before = case.disk.copy();
    let mut lab = Lab::new(&case.world, case.disk.clone());
    if let Some(candidates) = case.candidates {
        lab.candidates = candidates;
    }
    let error = lab.run().unwrap_err();
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains(reason), "{text}");
    assert!(!error.cause.may_pass(), "it would be tried again for ever: {text}");
    assert_eq!(lab.writes(), 0, "written in spite of: {text}");
    assert!(case.disk.contents(0..0) == before.contents(0..0));
}

fn with_candidate(case: &mut Case, change: impl FnOnce(&mut Candidate)) {
    let mut one = candidate("nvme0n1", case.world.order.disk.clone());
    change(&mut one);
    case.candidates = Some(vec![one]);
}

fn marker(cluster: ClusterId, n: u64, state: MarkerState) -> Marker {
    Marker {
        sequence: 0,
        cluster,
        node: "mini-pc-1".parse().unwrap(),
        key: SecretKey::from_seed([3; 32]).public().fingerprint(),
        order: number(n),
        state,
        slots: [None, None],
        reinstall_pending: false,
        fetched: vec![],
    }
}

#[test]
fn a_disk_in_use_is_refused_whatever_uses_it() {
    for uses in [
        "nvme0n1p1 is mounted as /",
        "nvme0n1p2 is used as swap",
        "nvme0n1 is held by md127",
        "nvme0n1p3 is held by dm-0",
        "read-only",
        "not listed by the kernel",
    ] {
        refused(uses, |case| with_candidate(case, |one| one.in_use = vec![uses.into()]));
    }
}

#[test]
fn a_usb_stick_is_refused_even_when_the_order_names_it() {
    refused("removable or on USB", |case| with_candidate(case, |one| one.disk.removable = true));
    refused("removable or on USB", |case| with_candidate(case, |one| one.disk.bus = Bus::Usb));
}

#[test]
fn twins_are_refused() {
    refused("all answer to", |case| {
        let id = case.world.order.disk.clone();
        case.candidates = Some(vec![candidate("nvme0n1", id.clone()), candidate("nvme1n1", id)]);
    });
    // Two namespaces of one NVMe have one serial; the order has no WWN to tell them apart.
    refused("all answer to", |case| {
        case.world.order.disk.wwn = None;
        let one = disk_id(DISK_BYTES);
        let other = DiskId { wwn: Some("eui.0011223344556678".into()), ..one.clone() };
        case.candidates = Some(vec![candidate("nvme0n1", one), candidate("nvme0n2", other)]);
    });
}

#[test]
fn a_disk_that_the_order_does_not_name_is_refused() {
    refused("no disk here is", |case| case.candidates = Some(vec![]));
    let others = [
        DiskId { serial: Some("S2".into()), ..disk_id(DISK_BYTES) },
        DiskId { wwn: None, ..disk_id(DISK_BYTES) },
        DiskId { wwn: Some("eui.ff".into()), ..disk_id(DISK_BYTES) },
        disk_id(DISK_BYTES + 512),
    ];
    for other in others {
        refused("no disk here is", |case| with_candidate(case, |one| one.disk.id = other));
    }
    refused("by size alone", |case| {
        case.world.order.disk = DiskId { wwn: None, serial: None, size_bytes: DISK_BYTES };
    });
}

#[test]
fn a_disk_whose_true_size_is_another_is_refused() {
    refused("changed while it was looked at", |case| {
        case.disk = MemoryDisk::new(DISK_BYTES - 512, 512);
    });
}

#[test]
fn a_disk_that_is_too_small_is_refused() {
    refused("the layout needs", |case| {
        case.world.order.disk.size_bytes = 39 << 20;
        case.disk = MemoryDisk::new(39 << 20, 512);
    });
}

#[test]
fn an_unknown_block_size_is_refused() {
    refused("logical blocks of 520", |case| {
        let size = DISK_BYTES / 520 * 520;
        case.world.order.disk.size_bytes = size;
        case.disk = MemoryDisk::new(size, 520);
    });
}

#[test]
fn an_image_that_does_not_fit_is_refused_before_the_first_write() {
    refused("a slot has", |case| {
        let image = noise(2 << 20, 1);
        case.world = World::with_image(&image, SMALL.frame);
    });
    refused("do not fit the ESP", |case| case.world.order.uki_bytes = 40 << 20);
    refused("needs", |case| {
        // Packed in frames of another size than the order's reader expects.
        case.world = World::with_image(&noise(512 << 10, 1), 32 << 10);
    });
}

#[test]
fn an_image_for_the_other_architecture_is_refused() {
    refused("this machine is x86_64", |case| {
        let world = &mut case.world;
        let bytes = &world.artifacts[&world.order.image];
        let mut index: muster_protocol::image::ImageIndex = muster_protocol::wire::decode(bytes).unwrap();
        index.arch = Arch::Aarch64;
        let bytes = muster_protocol::wire::encode(&index);
        world.order.image = Digest::of(&bytes);
        world.artifacts.insert(world.order.image, bytes);
    });
}

#[test]
fn what_lies_on_a_disk_is_named_and_left_alone() {
    // Magic bytes in their places; a whole table of them is tested beside the table.
    let cases: &[(&str, u64, &[u8])] = &[
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM physical volume", 512, b"LABELONE"),
        ("ext file system", 0x438, b"\x53\xef"),
        ("XFS", 0, b"XFSB"),
        ("NTFS", 3, b"NTFS    "),
        ("swap", 4086, b"SWAPSPACE2"),
        ("md RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
        ("BitLocker", 3, b"-FVE-FS-"),
        ("data of an unknown kind", 40_000, b"x"),
        ("data of an unknown kind", DISK_BYTES - 1, b"x"),
        ("md RAID member", DISK_BYTES - (8 << 10), b"\xfc\x4e\x2b\xa9"),
    ];
    for (name, at, bytes) in cases {
        refused(&format!("not empty: {name}"), |case| case.disk.put(*at, bytes));
    }
    // Deeper than the small layout's emptiness test looks, but named once something else shows that there is data.
    for (name, at, bytes) in
        [("ZFS member", 130 << 10, b"\x0c\xb1\xba\0\0\0\0\0"), ("Btrfs", 0x1_0040, b"_BHRfS_M")]
    {
        refused(&format!("not empty: {name}"), |case| {
            case.disk.put(at, bytes);
            case.disk.put(0, b"\x01");
        });
    }
}

#[test]
fn a_partition_table_is_counted_and_its_partitions_looked_into() {
    refused("GPT with 4 partitions, partition 4: ext file system", |case| {
        let plan = case.world.plan(512);
        for (at, bytes) in gpt::table(&plan) {
            case.disk.put(at, &bytes);
        }
        case.disk.put(plan.data.bytes.start + 0x438, b"\x53\xef");
    });
    refused("MBR with 1 partition", |case| {
        case.disk.put(450, &[0x83]);
        case.disk.put(510, &[0x55, 0xaa]);
    });
}

#[test]
fn a_marker_of_another_cluster_is_refused_on_an_otherwise_blank_disk() {
    for state in [MarkerState::Installing, MarkerState::Installed] {
        refused("belongs to another cluster", |case| {
            settle(&mut case.disk, &marker(ClusterId([9; 16]), 5, state)).unwrap();
        });
    }
}

#[test]
fn an_order_that_is_not_newer_than_the_marker_is_spent() {
    for (n, state) in [(6, MarkerState::Installed), (6, MarkerState::Installing)] {
        refused("not newer than what the disk remembers", |case| {
            settle(&mut case.disk, &marker(CLUSTER, n, state)).unwrap();
        });
    }
}

#[test]
fn a_plan_made_for_other_contents_is_void() {
    refused("changed since its wipe was allowed", |case| {
        case.disk.put(0, &noise(4096, 1));
        let contents = survey(&mut case.disk, &[], CLUSTER, &SMALL).unwrap();
        case.world.order.wipe = Wipe::Plan(PlanId::of(&case.world.order.disk, &contents.evidence));
        case.disk.put(8192, b"one byte more");
    });
    refused("changed since its wipe was allowed", |case| {
        // The same contents on another disk.
        let contents = survey(&mut case.disk, &[], CLUSTER, &SMALL).unwrap();
        let other = DiskId { serial: Some("S9".into()), ..case.world.order.disk.clone() };
        case.world.order.wipe = Wipe::Plan(PlanId::of(&other, &contents.evidence));
    });
}

#[test]
fn an_order_for_another_key_is_refused() {
    refused("this machine's is", |case| case.world.key = SecretKey::from_seed([99; 32]));
}

#[test]
fn a_plan_for_these_contents_is_followed() {
    let mut world = World::new();
    let mut disk = MemoryDisk::new(DISK_BYTES, 512);
    disk.put(0, &noise(1 << 20, 1));
    let contents = survey(&mut disk, &[], CLUSTER, &SMALL).unwrap();
    world.order.wipe = Wipe::Plan(PlanId::of(&world.order.disk, &contents.evidence));
    Lab::new(&world, disk).run().unwrap();
}

#[test]
fn an_order_that_another_key_took_is_refused() {
    let world = World::new();
    let mut lab = Lab::new(&world, MemoryDisk::new(DISK_BYTES, 512));
    lab.state = OrderState::Done;
    assert_eq!(lab.run().unwrap_err().step.name(), "claim");
    assert_eq!(lab.writes(), 0);
}

#[test]
fn a_claim_answered_with_another_nodes_or_classes_manifest_is_not_believed() {
    let world = World::new();
    let believed = |answer| held(answer, &world.order(), &world.trust, Some(1_750_000_000));
    assert!(believed(world.held()).is_ok());
    let mut other = World::new();
    other.order.node = "mini-pc-2".parse().unwrap();
    assert!(matches!(believed(other.held()), Err(ClaimError::Manifest(_))));
    let mut other = World::new();
    other.order.class = Class::RtxHost;
    assert!(matches!(believed(other.held()), Err(ClaimError::Manifest(_))));
}

#[test]
fn a_disk_that_vanishes_mid_write_stops_the_install() {
    let world = World::new();
    let disk = MemoryDisk::new(DISK_BYTES, 512);
    disk.0.lock().unwrap().cut_at = Some(30);
    let error = Lab::new(&world, disk).run().unwrap_err();
    assert!(error.cause.may_pass());
}

/// A machine as a folder: `/sys/block` and `/proc` with one disk and one partition.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let files = [
            ("sys/block/sda/dev", "8:0\n"),
            ("sys/block/sda/ro", "0\n"),
            ("sys/block/sda/sda1/partition", "1\n"),
            ("sys/block/sda/sda1/dev", "8:1\n"),
            ("sys/block/sda/sda1/holders/.keep", ""),
            ("sys/block/sda/holders/.keep", ""),
            ("proc/self/mountinfo", "22 1 0:5 / /proc rw - proc proc rw\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n"),
        ];
        let folder = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            folder.file(path, text);
        }
        for keep in ["sys/block/sda/holders/.keep", "sys/block/sda/sda1/holders/.keep"] {
            fs::remove_file(folder.0.path().join(keep)).unwrap();
        }
        folder
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn uses_are_read_from_the_kernels_files() {
    let folder = Folder::new();
    assert_eq!(in_use(folder.0.path(), "sda"), Vec::<String>::new());
    folder.file("proc/self/mountinfo", "22 1 8:1 / /srv/old\\040data rw - ext4 /dev/sda1 rw\n");
    folder.file("proc/swaps", "Filename\n/dev/sda1 partition 1 0 -2\n");
    folder.file("sys/block/sda/sda1/holders/dm-0/dev", "253:0\n");
    folder.file("sys/block/sda/ro", "1\n");
    assert_eq!(
        in_use(folder.0.path(), "sda"),
        ["read-only", "sda1 is held by dm-0", "sda1 is mounted as /srv/old\\040data", "sda1 is used as swap"]
    );
    assert_eq!(in_use(folder.0.path(), "sdb"), ["not listed by the kernel"]);
    assert_eq!(in_use(Path::new("/nonexistent"), "sda"), ["not listed by the kernel"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Anything where the emptiness test looks, and no person's plan: not one write.
    #[test]
    fn a_disk_that_is_not_empty_stays_untouched(
        pieces in proptest::collection::vec((0..SMALL.edge, any::<bool>(), 1..255_u8, 1..3000_usize), 1..4)
    ) {
        static WORLD: LazyLock<World> = LazyLock::new(World::new);
        let disk = MemoryDisk::new(DISK_BYTES, 512);
        for (at, tail, byte, length) in pieces {
            let at = if tail { DISK_BYTES - SMALL.edge + at } else { at };
            let length = length.min((DISK_BYTES - at) as usize);
            disk.put(at, &vec![byte; length]);
        }
        disk.power_on(Kept::Everything, &mut Luck(0));
        let before = disk.contents(0..0);
        let mut lab = Lab::new(&WORLD, disk.clone());
        prop_assert!(lab.run().is_err());
        prop_assert_eq!(lab.writes(), 0);
        prop_assert!(disk.contents(0..0) == before);
    }

    /// The evidence follows the contents: equal for equal ones, another for any change where it looks.
    #[test]
    fn evidence_changes_with_the_contents_and_not_with_the_marker(at in 0..SMALL.edge, byte in 1..255_u8) {
        let mut disk = MemoryDisk::new(DISK_BYTES, 512);
        let blank = survey(&mut disk, &[], CLUSTER, &SMALL).unwrap();
        settle(&mut disk, &marker(CLUSTER, 5, MarkerState::Installing)).unwrap();
        let marked = survey(&mut disk, &[], CLUSTER, &SMALL).unwrap();
        prop_assert_eq!(blank.evidence, marked.evidence);
        prop_assert!(blank.empty && marked.empty);
        let now = disk.get(at, 1)[0];
        disk.put(at, &[now ^ byte]);
        let changed = survey(&mut disk, &[], CLUSTER, &SMALL).unwrap();
        prop_assert_ne!(blank.evidence, changed.evidence);
        prop_assert!(!changed.empty);
    }
}
