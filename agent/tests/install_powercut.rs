//! Power may go at any write and at any flush: the machine installs exactly once all the same (test plan T60, T61, T64).
//!
//! The installer is the real one, over a disk in memory that keeps any part of what was not flushed. Around it stand
//! doubles of provisioner, firmware and PID 1's decision. Not real here: mke2fs (a program of its own; the double
//! writes a recognisable something in its way), and time. tests/lab cuts the power of whole machines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod install_support;

use install_support::disk::{Kept, Luck, MemoryDisk};
use install_support::lab::{Lab, OrderState};
use install_support::{CLUSTER, World, noise, number};
use muster_agent::install::marker::{read_marker, settle};
use muster_agent::install::survey::survey;
use muster_agent::install::{esp, mkdata, plan};
use muster_protocol::ids::Arch;
use muster_protocol::marker::{LENGTH, Marker, MarkerState, OFFSET};
use muster_protocol::order::{PlanId, Wipe};

const MARKER: std::ops::Range<u64> = OFFSET..OFFSET + LENGTH;
/// Power-ons after which a story without an end is called one.
const POWER_ONS: u32 = 12;

/// Where a machine's story begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// A blank disk and an order for an empty one.
    Blank,
    /// Somebody's data, and a person who allowed to wipe it.
    Foreign,
    /// An older install of this cluster, ordered anew by a person.
    Reinstall,
}

struct Story {
    world: World,
    start: MemoryDisk,
    began: Start,
    /// What the disk holds at the end, marker aside, when nothing goes wrong.
    good: MemoryDisk,
    operations: u64,
}

impl Story {
    fn new(began: Start, block_bytes: u32) -> Self {
        let mut world = World::for_blocks_of(block_bytes);
        let size = world.order.disk.size_bytes;
        let mut start = MemoryDisk::new(size, block_bytes);
        match began {
            Start::Blank => (),
            Start::Foreign | Start::Reinstall => {
                for at in (0..size).step_by(1 << 20).filter(|at| !MARKER.contains(at)) {
                    start.put(at, &noise(8192, at));
                }
                if matches!(began, Start::Reinstall) {
                    settle(&mut start, &installed_before(&world)).unwrap();
                }
                let contents = survey(&mut start, &[], CLUSTER, &world.sizes).unwrap();
                world.order.wipe = Wipe::Plan(PlanId::of(&world.order.disk, &contents.evidence));
            }
        }
        start.power_on(Kept::Everything, &mut Luck(0));
        let good = start.copy();
        let mut lab = Lab::new(&world, good.clone());
        lab.run().unwrap();
        let operations = good.0.lock().unwrap().operations;
        Self { world, start, began, good, operations }
    }

    /// Cuts the power as `cuts` says, one for each power-on, until the machine is installed; then checks the end.
    fn tell(&self, cuts: &[(u64, Kept)], seed: u64) {
        let mut luck = Luck(seed);
        let disk = self.start.copy();
        let mut lab = Lab::new(&self.world, disk.clone());
        lab.lose_claim_answer = seed % 5 == 1;
        // Writes come in the same order with and without threads; waking them for each story would only take time.
        lab.workers = if seed.is_multiple_of(50) { 2 } else { 0 };
        let mut cuts = cuts.iter().copied();
        let mut installs = 0;
        for _ in 0..POWER_ONS {
            let cut = cuts.next();
            disk.0.lock().unwrap().cut_at = cut.map(|(at, _)| at);
            match self.boot(&disk) {
                Boot::FromDisk => {
                    // The word that it is done may be lost; the next boot says it again.
                    if seed % 3 == 1 && lab.state != OrderState::Done && cut.is_some() {
                        continue;
                    }
                    lab.state = OrderState::Done;
                    assert_eq!(installs, 1, "installed by exactly one run that reached the marker");
                    return self.check_end(&lab, true);
                }
                Boot::Network => {
                    assert_ne!(lab.state, OrderState::Done, "a done order is never given again");
                    lab.requests_left = (seed % 7 == 1 && cut.is_some()).then(|| luck.below(15));
                    let before = newest(&disk);
                    let outcome = lab.run();
                    lab.requests_left = None;
                    let (_, kept) = cut.unwrap_or((0, Kept::Everything));
                    if let Err(error) = &outcome {
                        let dark = disk.0.lock().unwrap().dark;
                        assert!(dark || error.cause.may_pass(), "{error:?}");
                    }
                    disk.power_on(kept, &mut luck);
                    let was = |marker: &Option<Marker>| marker.as_ref().is_some_and(|it| self.is_ours(it));
                    installs += u32::from(was(&newest(&disk)) && !was(&before));
                }
            }
        }
        panic!("not installed after {POWER_ONS} power-ons");
    }

    fn is_ours(&self, marker: &Marker) -> bool {
        marker.state == MarkerState::Installed && marker.order == self.world.order.number
    }

    /// Firmware and PID 1: what this disk leads to, and what must hold whenever power comes back.
    fn boot(&self, disk: &MemoryDisk) -> Boot {
        self.check_esp(disk);
        match newest(disk) {
            Some(marker) if self.is_ours(&marker) => Boot::FromDisk,
            Some(marker) if marker.state == MarkerState::Installed => {
                // The old system, which an order with a higher number replaces: until `installing` it must be whole.
                assert_eq!(disk.contents(MARKER), self.start.contents(MARKER), "the old system was touched");
                Boot::Network
            }
            Some(_) => Boot::Network,
            None => {
                assert_eq!(disk.contents(MARKER), self.start.contents(MARKER), "the marker was not first");
                Boot::Network
            }
        }
    }

    /// Firmware starts a loader from an ESP whose boot sector is there: then everything behind it must be there.
    fn check_esp(&self, disk: &MemoryDisk) {
        let old = |marker: Option<Marker>| marker.is_none_or(|it| it.order != self.world.order.number);
        let part = self.world.plan(512).esp.bytes;
        if old(newest(disk)) || disk.get(part.start, 512)[510..] != [0x55, 0xaa] {
            return;
        }
        let behind = part.start + 4096..part.end;
        assert!(disk.within(behind.clone()) == self.good.within(behind), "a boot sector before its loader");
    }

    /// Everything as if nothing had happened.
    fn check_end(&self, lab: &Lab<'_>, boot_entry: bool) {
        let mut disk = lab.disk.clone();
        assert!(disk.contents(MARKER) == self.good.contents(MARKER), "the disk ends with other bytes");
        let (mine, good) = (newest(&disk).unwrap(), newest(&self.good).unwrap());
        assert!(mine.says_the_same_as(&good));
        let plan = self.world.plan(muster_agent::install::disk::Disk::block_bytes(&disk));
        let slot = disk.get(plan.slots[0].bytes.start, self.world.image.len());
        assert!(slot == self.world.image, "the slot is not the image");
        mkdata::check(&mut disk, &plan.data).unwrap();
        if !boot_entry {
            return;
        }
        let ours =
            lab.firmware.values().filter(|value| value.windows(4).any(|four| four == b"M\0u\0")).count();
        assert_eq!(ours, 1, "one boot entry");
        assert_eq!(lab.firmware["BootOrder"][..2], [2, 0]);
        assert!(lab.firmware["Boot0002"].windows(16).any(|guid| guid == plan.esp.guid.0));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Boot {
    FromDisk,
    Network,
}

fn newest(disk: &MemoryDisk) -> Option<Marker> {
    read_marker(&mut disk.clone()).unwrap()
}

fn installed_before(world: &World) -> Marker {
    Marker {
        sequence: 0,
        cluster: CLUSTER,
        node: world.order.node.clone(),
        key: world.order.key,
        order: number(2),
        state: MarkerState::Installed,
        slots: [None, None],
        reinstall_pending: false,
        fetched: vec![],
    }
}

const KEPT: [Kept; 6] =
    [Kept::Nothing, Kept::Everything, Kept::Some, Kept::Some, Kept::Torn(512), Kept::Torn(4096)];

fn every_cut(began: Start, block_bytes: u32) {
    let story = Story::new(began, block_bytes);
    for at in 0..story.operations {
        for (number, kept) in KEPT.into_iter().enumerate() {
            // On a disk with 4 KiB blocks half a block is never written.
            if block_bytes == 4096 && kept == Kept::Torn(512) {
                continue;
            }
            let seed = at * 100 + number as u64;
            let told = std::panic::catch_unwind(|| story.tell(&[(at, kept)], seed));
            assert!(told.is_ok(), "{:?}: cut at operation {at}, kept {kept:?}, seed {seed}", story.began);
        }
    }
}

#[test]
fn a_cut_at_every_operation_of_a_first_install_ends_in_one_install() {
    every_cut(Start::Blank, 512);
}

#[test]
fn a_cut_at_every_operation_on_a_4kn_disk_ends_in_one_install() {
    every_cut(Start::Blank, 4096);
}

#[test]
fn a_cut_at_every_operation_over_foreign_data_ends_in_one_install() {
    every_cut(Start::Foreign, 512);
}

#[test]
fn a_cut_at_every_operation_of_a_reinstall_leaves_the_old_system_or_ends_in_one_install() {
    every_cut(Start::Reinstall, 512);
}

/// 2,000 stories with one to four cuts each, any part of the unflushed writes kept; `MUSTER_CUTS` tells another number.
#[test]
fn random_cuts_in_a_row_end_in_one_install() {
    let count: u64 = std::env::var("MUSTER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let stories = [
        Story::new(Start::Blank, 512),
        Story::new(Start::Foreign, 512),
        Story::new(Start::Reinstall, 512),
        Story::new(Start::Blank, 4096),
    ];
    std::thread::scope(|scope| {
        for half in 0..2 {
            let stories = &stories;
            scope.spawn(move || {
                for seed in (half..count).step_by(2) {
                    let mut luck = Luck(seed);
                    let story = &stories[luck.below(4) as usize];
                    let cuts: Vec<(u64, Kept)> = (0..1 + luck.below(4))
                        .map(|_| {
                            let at = luck.below(story.operations);
                            let kept = KEPT[luck.below(if at.is_multiple_of(2) { 4 } else { 6 }) as usize];
                            (at, kept)
                        })
                        .collect();
                    let told = std::panic::catch_unwind(|| story.tell(&cuts, seed));
                    assert!(told.is_ok(), "{:?}: cuts {cuts:?}, seed {seed}", story.began);
                }
            });
        }
    });
}

#[test]
fn an_io_error_at_every_operation_stops_the_run_and_the_next_one_ends_it() {
    let story = Story::new(Start::Foreign, 512);
    for at in 0..story.operations {
        let disk = story.start.copy();
        let mut lab = Lab::new(&story.world, disk.clone());
        disk.0.lock().unwrap().fail_at = Some(at);
        let outcome = lab.run();
        if let Err(error) = &outcome {
            assert!(error.cause.may_pass(), "operation {at}: {error:?}");
            disk.0.lock().unwrap().fail_at = None;
            if error.step.name() == "reboot" {
                // The caller may try that again; the install is over.
                assert_eq!(newest(&disk).unwrap().state, MarkerState::Installed);
            } else {
                lab.run().unwrap();
            }
        }
        disk.power_on(Kept::Everything, &mut Luck(0));
        assert_eq!(story.boot(&disk), Boot::FromDisk, "operation {at}");
        // A firmware that cannot write its variables is no reason to stop: the fallback path boots.
        story.check_end(&lab, outcome.is_err());
    }
}

#[test]
fn a_provisioner_that_dies_at_every_request_delays_the_install_and_no_more() {
    let story = Story::new(Start::Blank, 512);
    let mut whole = Lab::new(&story.world, story.start.copy());
    whole.run().unwrap();
    for at in 0..whole.requests {
        let disk = story.start.copy();
        let mut lab = Lab::new(&story.world, disk.clone());
        lab.requests_left = Some(at);
        let error = lab.run().unwrap_err();
        assert!(error.cause.may_pass(), "request {at}: {error:?}");
        lab.requests_left = None;
        lab.run().unwrap();
        disk.power_on(Kept::Nothing, &mut Luck(0));
        assert_eq!(story.boot(&disk), Boot::FromDisk);
        story.check_end(&lab, true);
    }
}

#[test]
fn a_resumed_install_fetches_only_the_frames_that_are_missing() {
    let story = Story::new(Start::Blank, 512);
    let disk = story.start.copy();
    let mut lab = Lab::new(&story.world, disk.clone());
    // Claim, table, and three of the eight stored frames.
    lab.requests_left = Some(5);
    lab.run().unwrap_err();
    lab.requests_left = None;
    disk.power_on(Kept::Everything, &mut Luck(0));
    let before = lab.requests;
    lab.run().unwrap();
    let mut whole = Lab::new(&story.world, story.start.copy());
    whole.run().unwrap();
    assert!(lab.requests - before < whole.requests, "{} of {}", lab.requests - before, whole.requests);
}

#[test]
fn a_lied_frame_is_never_written() {
    let story = Story::new(Start::Blank, 512);
    let disk = story.start.copy();
    let mut lab = Lab::new(&story.world, disk.clone());
    let index = &story.world.artifacts[&story.world.order.image];
    let index: muster_protocol::image::ImageIndex = muster_protocol::wire::decode(index).unwrap();
    lab.corrupt = Some(index.blob);
    let error = lab.run().unwrap_err();
    assert_eq!(error.step.name(), "write");
    disk.power_on(Kept::Everything, &mut Luck(0));
    let plan = story.world.plan(512);
    assert!(disk.get(plan.slots[0].bytes.start, story.world.image.len()).iter().all(|byte| *byte == 0));
    lab.corrupt = None;
    lab.run().unwrap();
}

#[test]
fn the_small_layout_has_the_shape_of_the_real_one() {
    let world = World::new();
    let small = world.plan(512);
    let real = plan::plan(1 << 40, 512, &plan::Sizes::DESIGN, CLUSTER, world.order.number).unwrap();
    for (small, real) in small.parts().into_iter().zip(real.parts()) {
        assert_eq!((small.name, small.guid, small.kind), (real.name, real.guid, real.kind));
    }
    assert_eq!(esp::loader_paths(Arch::X86_64)[0], "EFI/BOOT/BOOTX64.EFI");
}
