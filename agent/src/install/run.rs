//! The sequence of an install, and what its caller provides. Every step can be repeated; a run that failed anywhere
//! is simply run again, in this boot or after the next one.
//!
//! Order of things that matter: nothing is written before the order is held and its disk found and allowed; the
//! marker `installing` is the first write; `installed` is the last, after everything has been read back.

use super::bootentry::{self, Variables};
use super::choose::{self, Begin, Candidate, Refusal};
use super::claim::{self, Held};
use super::disk::Disk;
use super::failed::ImageError;
/// What [`run`] returns when it stops.
pub use super::failed::{Cause, Failed, Step};
use super::fetch::Source;
use super::mkdata::DataError;
use super::plan::{Part, Plan, Sizes, plan};
use super::seed::{Seed, seeds};
use super::survey::survey;
use super::{esp, gpt, marker, wipe, write};
use muster_protocol::ids::Arch;
use muster_protocol::image::{ImageIndex, Stored};
use muster_protocol::keys::SecretKey;
use muster_protocol::marker::{Marker, MarkerState, Slot};
use muster_protocol::order::Order;
use muster_protocol::signed::{Trust, Verified};
use muster_protocol::status::{Progress, Stage};
use muster_protocol::sync::{Claim, ClaimAnswer};
use muster_protocol::wire;
use std::io;

/// PID 1 starts a slot so often before it leaves it for the other one; the node service calls it good earlier.
const TRIES: u8 = 3;

/// What is to be done. The order is verified by whoever received it; its `accepted` number is persisted by then.
pub struct Job<'a> {
    pub order: &'a Verified<Order>,
    pub trust: &'a Trust,
    pub key: &'a SecretKey,
    pub arch: Arch,
    pub sizes: Sizes,
    /// Threads that unpack and digest; 0 does everything on the caller's.
    pub workers: usize,
    /// Unix seconds, where this machine has a clock to believe.
    pub now: Option<u64>,
}

/// The machine around the install: everything that is not arithmetic.
pub trait Env {
    /// `POST /agent/v1/claim`; the error says in words why there is no answer.
    fn claim(&mut self, claim: &Claim) -> Result<ClaimAnswer, String>;
    fn disks(&mut self) -> Vec<Candidate>;
    /// For writing, by us alone.
    fn open(&mut self, candidate: &Candidate) -> io::Result<Box<dyn Disk>>;
    fn source(&mut self) -> &mut dyn Source;
    /// Makes the data partition's file system with these files in it, and reads it back.
    fn make_data(&mut self, disk: &mut dyn Disk, part: &Part, seeds: &[Seed]) -> Result<(), DataError>;
    /// `None` where the firmware has none that can be written.
    fn variables(&mut self) -> Option<&mut dyn Variables>;
    /// Milliseconds since kernel start.
    fn uptime_ms(&self) -> u64;
    fn reboot(&mut self) -> io::Result<()>;
}

/// What is told while it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The step that runs now; `total` 0 when it cannot be known.
    Progress(Progress),
    /// A finished step.
    Done(Stage),
    /// For the log: nothing that stops the install.
    Note(String),
}

/// What `choose` found out; from here on everything is decided.
struct Target {
    disk: Box<dyn Disk>,
    plan: Plan,
    begin: Begin,
    /// As found.
    marker: Option<Marker>,
    index: ImageIndex,
    uki_name: String,
}

pub fn run(job: &Job<'_>, env: &mut dyn Env, report: &mut dyn FnMut(Event)) -> Result<(), Failed> {
    let mut steps = Steps { report };
    let held = steps.run(Step::Claim, env, |env, _| take(job, env).map(plain))?;
    let mut target = steps.run(Step::Choose, env, |env, _| choose(job, env).map(plain))?;
    let marker = match (target.begin, target.marker.take()) {
        // Only the word of it was lost, or the second copy of the marker.
        (Begin::Done, Some(marker)) => marker,
        (Begin::Fresh { .. } | Begin::Resume | Begin::Done, _) => {
            write_all(job, env, &mut steps, &held, &mut target)?
        }
    };
    steps.run(Step::Mark, env, |_, _| {
        marker::settle(target.disk.as_mut(), &marker).map(|_marker| plain(())).map_err(Cause::Disk)
    })?;
    drop(target);
    steps.run(Step::Reboot, env, |env, _| env.reboot().map(plain).map_err(Cause::Reboot))
}

/// From the first write to the last but one; the marker that the last one writes.
fn write_all(
    job: &Job<'_>,
    env: &mut dyn Env,
    steps: &mut Steps<'_>,
    held: &Held,
    target: &mut Target,
) -> Result<Marker, Failed> {
    let order = job.order.get();
    let Target { disk, plan, begin, index, uki_name, .. } = target;
    let (disk, begin) = (disk.as_mut(), *begin);

    steps.run(Step::Wipe, env, |_, _| {
        marker::settle(disk, &marker_of(job, MarkerState::Installing, [None, None])).map_err(Cause::Disk)?;
        wipe::wipe(disk, plan, &job.sizes, index.raw_bytes).map(counted).map_err(Cause::Disk)
    })?;
    steps.run(Step::Partition, env, |_, _| gpt::write(disk, plan).map(counted).map_err(Cause::Disk))?;

    let slot =
        write::Slot { index, start: plan.slots[0].bytes.start, frame: job.sizes.frame, workers: job.workers };
    steps.run(Step::Write, env, |env, told| write(&slot, begin, disk, env, told))?;
    steps.run(Step::Verify, env, |_, told| verify(&slot, begin, disk, told))?;
    steps.run(Step::Esp, env, |env, told| {
        let mut whole = |what, digest, bytes| {
            env.source().whole(digest, bytes).map_err(|source| Cause::Fetch { what, source })
        };
        let loader = whole("the boot loader", &order.loader, order.loader_bytes)?;
        let uki = whole("the UKI", &order.uki, order.uki_bytes)?;
        let files = esp::Files { arch: job.arch, loader: &loader, uki_name, uki: &uki };
        esp::write(disk, &plan.esp, &files, &mut |done| told(done, 0)).map(counted).map_err(Cause::Esp)
    })?;
    steps.run(Step::Seed, env, |env, _| {
        let seeds = seeds(held, job.trust, job.key);
        env.make_data(disk, &plan.data, &seeds).map(plain).map_err(Cause::Data)
    })?;
    let note = steps.run(Step::BootEntry, env, |env, _| Ok(plain(boot_entry(job, env, plan))))?;
    (steps.report)(Event::Note(note));

    let slot = Slot {
        image: order.image,
        uki: order.uki,
        uki_name: uki_name.clone(),
        kernel_release: index.kernel_release.clone(),
        written: 1,
        tries_left: TRIES,
        good: false,
    };
    Ok(marker_of(job, MarkerState::Installed, [Some(slot), None]))
}

fn write(
    slot: &write::Slot<'_>,
    begin: Begin,
    disk: &mut dyn Disk,
    env: &mut dyn Env,
    told: &mut dyn FnMut(u64, u64),
) -> Result<Made<()>, Cause> {
    let total = slot.index.raw_bytes;
    let (first, blank) = match begin {
        Begin::Fresh { blank } => (0, blank),
        Begin::Resume | Begin::Done => (slot.kept(disk).map_err(Cause::Write)?, false),
    };
    slot.write(disk, env.source(), first, blank, &mut |done| told(done, total)).map_err(Cause::Write)?;
    Ok(counted(total))
}

fn verify(
    slot: &write::Slot<'_>,
    begin: Begin,
    disk: &mut dyn Disk,
    told: &mut dyn FnMut(u64, u64),
) -> Result<Made<()>, Cause> {
    let total = slot.index.raw_bytes;
    let mut told = |done| told(done, total);
    let mut wrong = slot.verify(disk, &mut told).map_err(Cause::Write)?;
    if begin == (Begin::Fresh { blank: true }) && !wrong.is_empty() {
        // The emptiness test looks at samples: where it missed something, zeros were not written.
        wrong.retain(|frame| slot.index.frames[*frame].stored == Stored::Zero);
        slot.write_zeros(disk, &wrong).map_err(Cause::Write)?;
        wrong = slot.verify(disk, &mut told).map_err(Cause::Write)?;
    }
    match wrong.first() {
        None => Ok(counted(total)),
        Some(first) => Err(Cause::Unverified { count: wrong.len(), first: *first }),
    }
}

fn take(job: &Job<'_>, env: &mut dyn Env) -> Result<Held, Cause> {
    claim::is_mine(job.order.get(), job.key).map_err(Cause::Refused)?;
    let answer = env.claim(&claim::claim(job.order.get())).map_err(Cause::NoAnswer)?;
    claim::held(answer, job.order, job.trust, job.now).map_err(Cause::Claim)
}

fn choose(job: &Job<'_>, env: &mut dyn Env) -> Result<Target, Cause> {
    let order = job.order.get();
    let cluster = job.trust.cluster;
    let candidate = choose::choose(&order.disk, &env.disks()).map_err(Cause::Refused)?.clone();
    let mut disk = env.open(&candidate).map_err(Cause::Disk)?;
    // Looked at again now that nobody else can take it: the name may have moved to another disk in between.
    let again = choose::choose(&order.disk, &env.disks()).map_err(Cause::Refused)?.clone();
    if again != candidate || disk.size() != order.disk.size_bytes {
        let what = format!("it was {candidate:?}, is {again:?}, and has {} bytes", disk.size());
        return Err(Cause::Refused(Refusal::Changed { name: candidate.disk.name, what }));
    }

    let plan =
        plan(disk.size(), disk.block_bytes(), &job.sizes, cluster, order.number).map_err(Cause::Unfit)?;
    let marker = marker::read_marker(disk.as_mut()).map_err(Cause::Disk)?;
    let begin = match choose::remembered(order, cluster, marker.as_ref()).map_err(Cause::Refused)? {
        Some(begin) => begin,
        None => {
            let contents = survey(disk.as_mut(), &again.in_use, cluster, &job.sizes).map_err(Cause::Disk)?;
            choose::permit(order, cluster, &contents, marker.as_ref()).map_err(Cause::Refused)?
        }
    };
    let (index, uki_name) = image(job, env, &plan)?;
    Ok(Target { disk, plan, begin, marker, index, uki_name })
}

/// Longest table of an image: one for a slot of 8 GiB has 100 KiB.
const INDEX_BYTES: u64 = 1 << 20;

/// The image's table, fetched and found fit before anything is written.
fn image(job: &Job<'_>, env: &mut dyn Env, plan: &Plan) -> Result<(ImageIndex, String), Cause> {
    let order = job.order.get();
    let bytes = env
        .source()
        .whole(&order.image, INDEX_BYTES)
        .map_err(|source| Cause::Fetch { what: "the node image's table", source })?;
    let image = |error| Cause::Image(error);
    let index: ImageIndex = wire::decode(&bytes).map_err(ImageError::Undecodable).map_err(image)?;
    index.check(job.sizes.frame).map_err(ImageError::Bad).map_err(image)?;
    if index.arch != job.arch {
        return Err(image(ImageError::OtherArch { image: index.arch, machine: job.arch }));
    }
    if index.raw_bytes > job.sizes.slot {
        return Err(image(ImageError::TooLarge { image: index.raw_bytes, slot: job.sizes.slot }));
    }
    let uki_name = esp::uki_name(&index.kernel_release, &order.uki);
    esp::fits(&plan.esp, plan.block_bytes, &uki_name, order.loader_bytes, order.uki_bytes)
        .map_err(ImageError::Boot)
        .map_err(image)?;
    Ok((index, uki_name))
}

/// What came of the boot entry, for the log: an install does not fail for it, the fallback path boots too.
fn boot_entry(job: &Job<'_>, env: &mut dyn Env, plan: &Plan) -> String {
    let option = bootentry::load_option(&plan.esp, plan.block_bytes, job.arch);
    match env.variables().map(|variables| bootentry::apply(variables, &option)) {
        None => "the firmware's variables cannot be written; it will boot by the fallback path".into(),
        Some(Ok(bootentry::Outcome::Written)) => "the disk is first in the boot order now".into(),
        Some(Ok(bootentry::Outcome::AlreadyThere)) => "the disk was first in the boot order already".into(),
        Some(Err(error)) => format!("the boot entry was not written ({error}); the fallback path will do"),
    }
}

fn marker_of(job: &Job<'_>, state: MarkerState, slots: [Option<Slot>; 2]) -> Marker {
    let order = job.order.get();
    Marker {
        sequence: 0,
        cluster: job.trust.cluster,
        node: order.node.clone(),
        key: order.key,
        order: order.number,
        state,
        slots,
        reinstall_pending: false,
        fetched: Vec::new(),
    }
}

/// Runs steps and tells of them.
struct Steps<'a> {
    report: &'a mut dyn FnMut(Event),
}

/// What a step makes, and how many bytes it moved.
type Made<T> = (T, Option<u64>);

fn plain<T>(value: T) -> Made<T> {
    (value, None)
}

fn counted(bytes: u64) -> Made<()> {
    ((), Some(bytes))
}

impl Steps<'_> {
    fn run<T>(
        &mut self,
        step: Step,
        env: &mut dyn Env,
        work: impl FnOnce(&mut dyn Env, &mut dyn FnMut(u64, u64)) -> Result<Made<T>, Cause>,
    ) -> Result<T, Failed> {
        let report = &mut *self.report;
        let mut told = |done, total| {
            report(Event::Progress(Progress { step: step.name().into(), done, total }));
        };
        let started_ms = env.uptime_ms();
        told(0, 0);
        let (made, bytes) = work(env, &mut told).map_err(|cause| Failed { step, cause })?;
        let ms = env.uptime_ms().saturating_sub(started_ms);
        report(Event::Done(Stage { step: step.name().into(), started_ms, ms, bytes }));
        Ok(made)
    }
}
