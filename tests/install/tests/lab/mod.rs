//! One machine, one provisioner, and the host between them; a whole install under a cut, and what must be true after it.

pub(crate) mod cut;
mod home;
mod images;
mod lan;
mod machine;
mod middle;

use cut::{Exchange, Moment};
use home::Home;
use lan::Lan;
use machine::{Boot, Machine};
use middle::Middle;
use muster::store::rows::OrderState;
use muster_protocol::hello::Answer;
use muster_protocol::marker::MarkerState;
use netns::must;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// From one event to the next, on a machine that does much else: a whole install lies between them.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether this computer can do it; says why not.
pub(crate) fn able() -> bool {
    netns::able(&["ethtool", "nft", "dnsmasq", "losetup", "mknod", "mke2fs", "e2fsck"])
}

enum Event {
    Killed,
    Ended(Boot),
}

/// A cluster with its images, founded once and copied for each install.
struct Founded {
    home: Home,
    image: Vec<u8>,
}

fn founded() -> &'static Founded {
    static FOUNDED: OnceLock<Founded> = OnceLock::new();
    FOUNDED.get_or_init(|| {
        let folder = Folder::new();
        let home = Home::found(&kept().join("founded"));
        let image = images::register(&home, &folder.0);
        Founded { home, image }
    })
}

/// What the installer did in the first boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    wrote: u64,
    /// How often it came to the first write.
    begun: u64,
}

fn undisturbed() -> Work {
    static WORK: OnceLock<Work> = OnceLock::new();
    *WORK.get_or_init(|| install(None))
}

/// What each further beginning may write: zeros at both ends of the disk (32 MiB), tables, a boot partition begun
/// anew, and the image's one frame of zeros, which is spared on a blank disk only. With one frame more, which has
/// 4 MiB, it would be too much: what lies in the slot is not written again.
const BEGUN_AGAIN: u64 = 42 << 20;

/// Installs one machine while its provisioner is killed in `exchange`, and started again. Then looks at everything.
pub(crate) fn killed_in(exchange: Exchange, moment: Moment) {
    let once = undisturbed();
    let cut = format!("{exchange:?} {moment:?}");
    let work = install(Some((exchange, moment)));
    println!("{cut}: {work:?}; undisturbed: {once:?}");
    assert_eq!(once.begun, 1);
    // Lines of the log are in the count as well.
    let limit = once.wrote + (work.begun - 1) * BEGUN_AGAIN + (256 << 10);
    assert!(work.wrote <= limit, "{cut}: {work:?}, undisturbed: {once:?}");
}

fn install(cut: Option<(Exchange, Moment)>) -> Work {
    let (folder, founded) = (Folder::new(), founded());
    let (tell, events) = channel();
    let lan = Lan::new(&folder.0.join("leases"));
    let home = Arc::new(founded.home.copy(&folder.0.join("home")));
    let machine = Arc::new(Machine::new(&folder.0.join("machine"), &home.trust_file()));
    let (killed, kills) = channel();
    let heard = tell.clone();
    std::thread::spawn(move || kills.iter().for_each(|()| drop(heard.send(Event::Killed))));
    let middle = Middle::start(&lan, &home, &machine, killed);
    home.start(&lan);
    home.open_admission(&lan);

    let cuts = u32::from(cut.is_some());
    if let Some((exchange, moment)) = cut {
        middle.watch.lock().unwrap().arm(exchange, moment);
    }
    let story = || format!("machine:\n{}\nprovisioner:\n{}", machine.said(), home.said());
    let running = machine.power_on(&lan, tell.clone(), Event::Ended);
    let (first, kills) = follow(&events, &home, &lan, cuts, &story);
    drop(running);
    assert_eq!(first.end, "restart", "{}", story());
    assert_eq!(kills, cuts, "the cut was made: {}", story());
    let begun = machine.said().matches("step choose done").count() as u64;

    // What lies on the disk.
    let marker = machine.marker().unwrap();
    let plan = machine.plan(marker.cluster, marker.order);
    assert_eq!(marker.state, MarkerState::Installed);
    assert_eq!(marker.key, machine.key().unwrap().public().fingerprint());
    assert!(machine.read(plan.slots[0].bytes.start, founded.image.len()) == founded.image, "another root");
    let data = format!("{}?offset={}", machine.disk_path().display(), plan.data.bytes.start);
    must(Command::new("e2fsck").args(["-f", "-n", &data]));

    // The next boot.
    let partition = machine.find_data_partition(&plan);
    let running = machine.power_on(&lan, tell, Event::Ended);
    let (second, _) = follow(&events, &home, &lan, 0, &story);
    drop(running);
    drop(partition);
    assert_eq!(second.end, "boot [0]", "{}", story());
    assert!(!machine.said().contains("no answer in time"), "{}", story());
    let (hello, answer) = middle.hellos.lock().unwrap().last().cloned().unwrap();
    assert_eq!(answer, Answer::Boot, "{}", story());
    assert!(hello.marker.is_some_and(|said| said.installed && said.order == marker.order));

    // What the store remembers.
    home.kill();
    let orders = home.orders();
    let [order] = &orders[..] else { panic!("one order was ever made: {orders:#?}") };
    assert_eq!((order.order.number, order.order.key), (marker.order, marker.key));
    assert!(matches!(order.state, OrderState::Done { .. }), "{order:?}");
    let events = home.events();
    for once in
        [format!("order {} is held", marker.order), format!("order {} is done: installed", marker.order)]
    {
        assert_eq!(events.iter().filter(|event| **event == once).count(), 1, "{once}: {events:#?}");
    }
    Work { wrote: first.wrote, begun }
}

/// Until the machine's boot has ended. The provisioner is started again whenever it was killed; how often that was.
fn follow(
    events: &Receiver<Event>,
    home: &Home,
    lan: &Lan,
    cuts: u32,
    story: &dyn Fn() -> String,
) -> (Boot, u32) {
    let (mut boot, mut kills) = (None, 0);
    // A kill in the last exchange may be told after the machine's end.
    while boot.is_none() || kills < cuts {
        match events.recv_timeout(PATIENCE) {
            Ok(Event::Killed) => {
                kills += 1;
                home.start(lan);
            }
            Ok(Event::Ended(ended)) => boot = Some(ended),
            Err(error) => panic!("{error}, {boot:?} after {kills} kills: {}", story()),
        }
    }
    (boot.unwrap(), kills)
}

fn kept() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install-lab");
            // Nobody is told when a test binary's statics go: the next run removes it.
            netns::remove_folders(&all);
            let own = all.join(netns::unique().unwrap());
            std::fs::create_dir_all(&own).unwrap();
            own
        })
        .clone()
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = kept().join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
