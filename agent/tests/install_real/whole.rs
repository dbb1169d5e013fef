//! Whole installs: on a file, and on block devices with either block size.

use crate::install_support::{self, World, disk_id, image, noise};
use crate::judge::judge;
use crate::tools::{Loop, losetup_works};
use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::bootentry::Variables;
use muster_agent::install::choose::Candidate;
use muster_agent::install::disk::Disk;
use muster_agent::install::failed::Failed;
use muster_agent::install::fetch::{Http, Source};
use muster_agent::install::machine::{Caller, Machine};
use muster_agent::install::mkdata::{self, DataError};
use muster_agent::install::plan::{Part, Sizes};
use muster_agent::install::run::{Env, Event, Job, run};
use muster_agent::install::seed::Seed;
use muster_protocol::ids::{Arch, Digest};
use muster_protocol::inventory::{Bus, Disk as DiskInfo};
use muster_protocol::sync::{Claim, ClaimAnswer};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::tempdir;

pub(crate) const DISK_BYTES: u64 = 24 << 30;

/// The provisioner's port 80, as far as this needs it. Every answer is complete and every connection kept.
fn serve(artifacts: BTreeMap<Digest, Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&stream.unwrap(), &artifacts).unwrap_or_default();
        }
    });
    at
}

fn answer(mut stream: &TcpStream, artifacts: &BTreeMap<Digest, Vec<u8>>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    loop {
        let Some(first) = lines.next() else { return Ok(()) };
        let first = first?;
        let mut range = None;
        for line in lines.by_ref() {
            let line = line?;
            if let Some(text) = line.strip_prefix("Range: bytes=") {
                let (from, to) = text.split_once('-').unwrap();
                range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
            }
            if line.is_empty() {
                break;
            }
        }
        let digest = first.split(['/', ' ']).find_map(|part| part.parse::<Digest>().ok()).unwrap();
        let bytes = &artifacts[&digest];
        let (head, body) = match range {
            Some((from, to)) => (
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}", bytes.len()),
                &bytes[from..=to],
            ),
            None => ("200 OK".to_owned(), &bytes[..]),
        };
        write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
    }
}

/// The provisioner's claim and the machine's detection.
struct Double {
    answer: ClaimAnswer,
    disk: DiskInfo,
    reboots: u32,
}

impl Caller for &mut Double {
    fn claim(&mut self, _claim: &Claim) -> Result<ClaimAnswer, String> {
        Ok(self.answer.clone())
    }

    fn disks(&mut self) -> Vec<DiskInfo> {
        vec![self.disk.clone()]
    }

    fn reboot(&mut self) -> io::Result<()> {
        self.reboots += 1;
        Ok(())
    }
}

fn world() -> World {
    let mut world = World::with_image(&image((9 << 20) + 8192), Sizes::DESIGN.frame);
    world.sizes = Sizes::DESIGN;
    world.order.disk = disk_id(DISK_BYTES);
    // Sizes as they really are, so that files span many clusters.
    for (digest, bytes, length) in [(0, noise(31_000_001, 5), 31_000_001), (1, noise(120_000, 6), 120_000)] {
        let name = Digest::of(&bytes);
        world.artifacts.insert(name, bytes);
        if digest == 0 {
            (world.order.uki, world.order.uki_bytes) = (name, length);
        } else {
            (world.order.loader, world.order.loader_bytes) = (name, length);
        }
    }
    world
}

fn install(world: &World, env: &mut dyn Env) -> (Result<(), Failed>, Vec<Event>) {
    let order = world.order();
    let job = Job {
        order: &order,
        trust: &world.trust,
        key: &world.key,
        arch: Arch::X86_64,
        sizes: world.sizes,
        workers: 2,
        now: None,
    };
    let mut events = vec![];
    let outcome = run(&job, env, &mut |event| events.push(event));
    (outcome, events)
}

#[test]
fn a_file_becomes_a_disk_that_other_tools_accept() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
    let world = world();
    let mut env =
        OnFile { path: path.clone(), http: Http::new(serve(world.artifacts.clone())), world: &world };
    let (outcome, events) = install(&world, &mut env);
    outcome.unwrap();
    judge(&world, &path, 512, folder.path());
    let steps: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Done(stage) => Some(stage.step.as_str()),
            Event::Progress(_) | Event::Note(_) => None,
        })
        .collect();
    assert_eq!(
        steps,
        [
            "claim",
            "choose",
            "wipe",
            "partition",
            "write",
            "verify",
            "esp",
            "seed",
            "bootentry",
            "mark",
            "reboot"
        ]
    );

    // The same order once more, as after a lost word: nothing is written.
    let before = digest_of_used(&path);
    install(&world, &mut env).0.unwrap();
    assert_eq!(before, digest_of_used(&path));
}

/// SHA-256 over what is not a hole: everything but the free space.
fn digest_of_used(path: &Path) -> Digest {
    let mut disk = BlockDevice::read_only(path, 512).unwrap();
    let mut all = vec![];
    let mut chunk = vec![0; 1 << 20];
    for at in (0..600 << 20).step_by(chunk.len()) {
        disk.read_at(at, &mut chunk).unwrap();
        all.extend_from_slice(&Digest::of(&chunk).0);
    }
    Digest::of(&all)
}

/// A machine whose only disk is a file.
struct OnFile<'a> {
    path: PathBuf,
    http: Http,
    world: &'a World,
}

impl Env for OnFile<'_> {
    fn claim(&mut self, _claim: &Claim) -> Result<ClaimAnswer, String> {
        Ok(self.world.held())
    }

    fn disks(&mut self) -> Vec<Candidate> {
        vec![install_support::candidate("disk", self.world.order.disk.clone())]
    }

    fn open(&mut self, _candidate: &Candidate) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(BlockDevice::exclusive(&self.path, 512)?))
    }

    fn source(&mut self) -> &mut dyn Source {
        &mut self.http
    }

    fn make_data(&mut self, disk: &mut dyn Disk, part: &Part, seeds: &[Seed]) -> Result<(), DataError> {
        let stage = self.path.with_extension("stage");
        let made = mkdata::make(disk, part, seeds, Path::new("/sbin/mke2fs"), &stage);
        assert!(!stage.exists(), "the key's copy in memory is gone");
        made
    }

    fn variables(&mut self) -> Option<&mut dyn Variables> {
        None
    }

    fn uptime_ms(&self) -> u64 {
        0
    }

    fn reboot(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_block_device_is_installed_with_either_block_size() {
    if !losetup_works("an install on a block device") {
        return;
    }
    for block_bytes in [512, 4096] {
        let folder = tempdir().unwrap();
        let file = folder.path().join("disk");
        File::create(&file).unwrap().set_len(DISK_BYTES).unwrap();
        let device = Loop::new(&file, block_bytes).unwrap();
        let world = world();
        let disk = DiskInfo {
            name: device.name().into(),
            id: world.order.disk.clone(),
            model: None,
            bus: Bus::Other,
            removable: false,
            rotational: false,
            logical_block_bytes: block_bytes,
            contents: None,
        };
        let mut double = Double { answer: world.held(), disk, reboots: 0 };
        let at = serve(world.artifacts.clone());
        // The real machine's root, with its /dev, /proc and /sys; only the efivars are nobody's business here.
        let mut machine = Machine::new("/".into(), at, &mut double);
        let (outcome, _) = install(&world, &mut machine);
        outcome.unwrap();
        drop(machine);
        assert_eq!(double.reboots, 1);
        judge(&world, &device.0, block_bytes, folder.path());
    }
}
