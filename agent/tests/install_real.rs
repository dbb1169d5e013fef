//! The real edges: block devices, HTTP, mke2fs; and strangers' tools that must accept what was made.
//!
//! Files need no rights; loop devices (512 and 4096 byte blocks) need root and are skipped, by name, without it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod install_support;

use install_support::{CLUSTER, World, disk_id, image, noise};
use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::bootentry::Variables;
use muster_agent::install::busy::in_use;
use muster_agent::install::choose::Candidate;
use muster_agent::install::disk::Disk;
use muster_agent::install::efivars::{Efivars, GLOBAL};
use muster_agent::install::failed::Failed;
use muster_agent::install::fetch::{Http, Source};
use muster_agent::install::machine::{Caller, Machine};
use muster_agent::install::marker::read_marker;
use muster_agent::install::mkdata::{self, DataError};
use muster_agent::install::plan::{Part, Plan, Sizes, plan};
use muster_agent::install::run::{Env, Event, Job, run};
use muster_agent::install::seed::Seed;
use muster_agent::install::survey::survey;
use muster_protocol::ids::{Arch, Digest};
use muster_protocol::inventory::{Bus, Contents, Disk as DiskInfo};
use muster_protocol::marker::MarkerState;
use muster_protocol::sync::{Claim, ClaimAnswer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::tempdir;

const DISK_BYTES: u64 = 24 << 30;

/// A loop device with a block size of choice, detached afterwards.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, block_bytes: u32) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block_bytes.to_string()])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        output.status.success().then(|| Self(path.into()))
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(detached.unwrap().success());
    }
}

fn losetup_works(why: &str) -> bool {
    let works =
        nix_root() && Command::new("losetup").arg("--find").output().is_ok_and(|out| out.status.success());
    if !works {
        eprintln!("skipped: {why} needs root and loop devices");
    }
    works
}

fn nix_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a program that must succeed; its output.
fn tool(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

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

/// Everything that other people's programs can say about a disk of ours.
fn judge(world: &World, path: &Path, block_bytes: u32, folder: &Path) {
    let mut disk = BlockDevice::read_only(path, block_bytes).unwrap();
    let marker = read_marker(&mut disk).unwrap().unwrap();
    assert_eq!(marker.state, MarkerState::Installed);
    let slot = marker.slots[0].as_ref().unwrap();
    assert_eq!(slot.kernel_release, "6.12.48+deb13-amd64");
    let plan = plan(DISK_BYTES, block_bytes, &Sizes::DESIGN, CLUSTER, world.order.number).unwrap();
    let text = path.to_str().unwrap();

    tool("sfdisk", &["--verify", text]);
    let said = tool("sgdisk", &["-v", text]);
    assert!(said.contains("No problems found"), "{said}");
    let listed = tool("sfdisk", &["--dump", text]);
    for part in plan.parts() {
        assert!(
            listed.contains(&part.guid.to_string().to_uppercase()) && listed.contains(part.name),
            "{listed}"
        );
    }

    let mut root = vec![0; world.image.len()];
    disk.read_at(plan.slots[0].bytes.start, &mut root).unwrap();
    assert!(root == world.image);
    judge_esp(world, &mut disk, &plan, folder, &slot.uki_name);
    judge_data(text, &plan);
    // The secret is on the data partition and nowhere else.
    let mut chunk = vec![0; 1 << 20];
    let zeros = chunk.clone();
    for at in (0..plan.slots[0].bytes.start + (16 << 20)).step_by(chunk.len()) {
        disk.read_at(at, &mut chunk).unwrap();
        assert!(
            chunk == zeros || !chunk.windows(32).any(|bytes| bytes == world.key.seed()),
            "the key lies at {at}"
        );
    }
}

fn judge_esp(world: &World, disk: &mut BlockDevice, plan: &Plan, folder: &Path, uki_name: &str) {
    // fsck.fat knows no offsets.
    let esp = folder.join("esp");
    let file = File::create(&esp).unwrap();
    file.set_len(plan.esp.bytes.end - plan.esp.bytes.start).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for at in (plan.esp.bytes.clone()).step_by(chunk.len()) {
        disk.read_at(at, &mut chunk).unwrap();
        if chunk.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, &chunk, at - plan.esp.bytes.start).unwrap();
        }
    }
    let esp = esp.to_str().unwrap();
    let said = tool("fsck.fat", &["-n", "-v", esp]);
    assert!(said.contains("FATs, 32 bit entries") && !said.to_lowercase().contains("differences"), "{said}");
    let out = folder.join("out");
    for (from, digest) in [
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), world.order.loader),
        ("EFI/systemd/systemd-bootx64.efi".to_owned(), world.order.loader),
        (format!("EFI/Linux/{uki_name}+3.efi"), world.order.uki),
    ] {
        tool("mcopy", &["-n", "-o", "-i", esp, &format!("::{from}"), out.to_str().unwrap()]);
        assert_eq!(Digest::of(&fs::read(&out).unwrap()), digest, "{from}");
    }
    let listed = tool("mdir", &["-/", "-b", "-i", esp, "::"]);
    assert!(listed.contains("::/loader/loader.conf"), "{listed}");
}

fn judge_data(disk: &str, plan: &Plan) {
    let at = format!("{disk}?offset={}", plan.data.bytes.start);
    tool("e2fsck", &["-f", "-n", &at]);
    let key = tool("debugfs", &["-R", "stat /lib/muster/node.key", &at]);
    assert!(key.contains("Mode:  0600") && key.contains("User:     0") && key.contains("Size: 32"), "{key}");
    let id = tool("debugfs", &["-R", "cat /lib/muster/machine-id", &at]);
    assert!(id.lines().any(|line| line.len() == 32), "{id}");
    let keys = tool("debugfs", &["-R", "cat /lib/muster/ssh/authorized_keys", &at]);
    assert!(keys.contains("ssh-ed25519 AAAA operator"), "{keys}");
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

#[test]
fn a_mounted_or_held_disk_cannot_even_be_opened() {
    if !losetup_works("a mounted disk") {
        return;
    }
    let folder = tempdir().unwrap();
    let file = folder.path().join("disk");
    File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let device = Loop::new(&file, 512).unwrap();
    tool("mke2fs", &["-q", "-t", "ext4", device.0.to_str().unwrap()]);
    let place = folder.path().join("mounted");
    fs::create_dir(&place).unwrap();
    tool("mount", &[device.0.to_str().unwrap(), place.to_str().unwrap()]);
    let uses = in_use(Path::new("/"), device.name());
    let opened = BlockDevice::exclusive(&device.0, 512).map(|_| ()).map_err(|error| error.kind());
    tool("umount", &[place.to_str().unwrap()]);
    assert_eq!(uses, [format!("{} is mounted as {}", device.name(), place.display())]);
    assert_eq!(opened, Err(io::ErrorKind::ResourceBusy));
    assert_eq!(in_use(Path::new("/"), device.name()), Vec::<String>::new());
    BlockDevice::exclusive(&device.0, 512).unwrap();
}

#[test]
fn an_immutable_variable_is_changed_and_deleted() {
    let folder = tempdir().unwrap();
    let vars = folder.path().join("sys/firmware/efi/efivars");
    fs::create_dir_all(&vars).unwrap();
    assert!(Efivars::at(folder.path(), GLOBAL).is_none(), "an empty folder is no efivarfs");
    let file = vars.join(format!("BootOrder-{GLOBAL}"));
    fs::write(&file, [7, 0, 0, 0, 1, 0]).unwrap();
    fs::write(vars.join("Other-00000000-0000-0000-0000-000000000000"), [7, 0, 0, 0]).unwrap();
    // As efivarfs makes its files; where the file system has no such flag, the rest is tested all the same.
    let immutable =
        Command::new("chattr").arg("+i").arg(&file).output().is_ok_and(|out| out.status.success());
    if !immutable {
        eprintln!("skipped: the immutable flag needs root and a file system that has it");
    }
    let mut variables = Efivars::at(folder.path(), GLOBAL).unwrap();
    assert_eq!(variables.names().unwrap(), ["BootOrder"]);
    assert_eq!(variables.read("BootOrder").unwrap().unwrap(), [1, 0]);
    variables.write("BootOrder", &[2, 0]).unwrap();
    variables.write("Boot0002", b"option").unwrap();
    assert_eq!(fs::read(&file).unwrap(), [7, 0, 0, 0, 2, 0]);
    assert_eq!(variables.read("Boot0002").unwrap().unwrap(), b"option");
    variables.delete("BootOrder").unwrap();
    variables.delete("BootOrder").unwrap();
    assert_eq!(variables.read("BootOrder").unwrap(), None);
}

/// What real tools leave on a disk is found, named, and not empty.
#[test]
fn what_real_tools_make_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("disk");
    let text = path.to_str().unwrap().to_owned();
    let surveyed = |make: &dyn Fn(&str)| -> Contents {
        File::create(&path).unwrap().set_len(256 << 20).unwrap();
        make(&text);
        let mut disk = BlockDevice::read_only(&path, 512).unwrap();
        survey(&mut disk, &[], CLUSTER, &Sizes::DESIGN).unwrap()
    };
    let blank = surveyed(&|_| ());
    assert!(blank.empty && blank.found.is_empty());
    type Make<'a> = &'a dyn Fn(&str);
    let cases: [(&str, Make<'_>); 4] = [
        ("ext file system", &|disk| drop(tool("mke2fs", &["-q", "-F", "-t", "ext4", disk]))),
        ("swap", &|disk| drop(tool("mkswap", &[disk]))),
        ("FAT", &|disk| drop(tool("mkfs.fat", &["-F", "32", disk]))),
        ("GPT with 2 partitions", &|disk| {
            drop(tool("sgdisk", &["-n", "1:0:+10M", "-n", "2:0:+10M", disk]));
        }),
    ];
    for (name, make) in cases {
        let contents = surveyed(make);
        assert!(!contents.empty, "{name}");
        assert!(contents.found.iter().any(|found| found == name), "{name}: {:?}", contents.found);
        assert_ne!(contents.evidence, blank.evidence);
    }
}
