//! One install, six power cuts, each at another place. Unflushed writes are kept, torn or lost by the seed; the machine goes
//! on where it was, and the disk never says `installed` over a root that is not the image.

use super::platter::{ESP, ROOT_A, differs, marker};
use super::site::{LONG, Since, Site, told};
use super::{Told, say};
use crate::nbd::{Change, Cut, Trigger};
use anyhow::{Context, Result, ensure};
use muster_protocol::marker::{LENGTH, Marker, MarkerState, OFFSET};
use serde_json::json;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;

/// Where the power goes.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The first header of a partition table on its way to the disk.
    Table,
    /// So much of the image written in this boot.
    Image { mib: u64 },
    /// So much of the ESP's files.
    Esp { mib: u64 },
    /// The data partition is made; the boot entry is next, which is no write to the disk.
    BootEntry,
    /// The first copy of the marker that says `installed`.
    Mark,
}

/// In the order of the install's steps; the image is large, so it is cut twice.
const PLACES: [(&str, Place); 6] = [
    ("partition", Place::Table),
    ("write", Place::Image { mib: 24 }),
    ("write", Place::Image { mib: 64 }),
    ("esp", Place::Esp { mib: 8 }),
    ("bootentry", Place::BootEntry),
    ("mark", Place::Mark),
];

pub(super) fn tell(site: &mut Site<'_>, seed: u64) -> Result<Told> {
    let mut cuts = Vec::new();
    let began = site.now();
    for (at, (step, place)) in PLACES.into_iter().enumerate() {
        let seed = seed.wrapping_add(at as u64);
        set_trap(site, place)?;
        let since = site.power_on()?;
        spring(site, since, place).with_context(|| format!("power cut {} in `{step}`", at + 1))?;
        let cut = site.machine.power_cut(seed)?.into_iter().next().unwrap_or_default();
        let says =
            look(site).with_context(|| format!("after power cut {} in `{step}`, seed {seed}", at + 1))?;
        say(&format!(
            "power cut {} of {} in `{step}`: {}, the marker says {says}",
            at + 1,
            PLACES.len(),
            words(&cut)
        ));
        cuts.push(json!({
            "step": step, "seed": seed, "marker": says,
            "unflushed": cut.unflushed, "kept": cut.kept, "torn": cut.torn, "lost": cut.lost,
        }));
    }
    let last = site.power_on()?;
    let took = site.own_system(last)?;
    ensure!(look(site)? == "installed", "its own system runs from a disk that is not installed");
    let number = site.one_install()?;
    let all = (site.now().ms - began.ms) as f64 / 1000.0;
    told(
        format!(
            "{} cuts in one install (seed {seed} and the next five), then its own system after {took:.0} s; order {number} carried out once, root identical to the image",
            PLACES.len()
        ),
        json!({ "cuts": cuts, "own_system_s": took, "seconds": all, "order": number }),
    )
}

/// Tells what the marker says; an error when it says `installed` and the root is anything but the image.
fn look(site: &Site<'_>) -> Result<&'static str> {
    let disk = site.disk()?;
    match marker(disk)?.map(|marker| marker.state) {
        None => Ok("nothing"),
        Some(MarkerState::Installing) => Ok("installing"),
        Some(MarkerState::Installed) => match differs(disk, &site.image)? {
            None => Ok("installed"),
            Some(at) => {
                anyhow::bail!("the marker says installed, but the root is not the image from byte {at} on")
            }
        },
    }
}

fn set_trap(site: &Site<'_>, place: Place) -> Result<()> {
    let disk = site.disk()?;
    let trigger: Trigger = match place {
        Place::Table => Box::new(|change| sectors(change).any(|sector| sector.starts_with(b"EFI PART"))),
        Place::Image { mib } => within(ROOT_A, mib),
        Place::Esp { mib } => within(ESP, mib),
        Place::BootEntry => return Ok(()),
        Place::Mark => Box::new(|change| {
            let inside = (OFFSET..OFFSET + LENGTH).contains(&change.at);
            let says = inside.then(|| Marker::from_copy(change.data.unwrap_or_default())).flatten();
            says.is_some_and(|marker| marker.state == MarkerState::Installed)
        }),
    };
    disk.set_trap(trigger);
    Ok(())
}

/// Yes to the write that brings it to `mib` in this range; zeros do not count, a wipe writes those everywhere.
fn within(range: std::ops::Range<u64>, mib: u64) -> Trigger {
    let mut written = 0;
    Box::new(move |change| {
        if range.contains(&change.at) && sectors(change).any(|sector| sector.iter().any(|byte| *byte != 0)) {
            written += change.length;
        }
        written >= mib * MIB
    })
}

fn sectors<'a>(change: &Change<'a>) -> impl Iterator<Item = &'a [u8]> {
    change.data.unwrap_or_default().chunks(SECTOR)
}

/// Waits for the moment.
fn spring(site: &Site<'_>, since: Since, place: Place) -> Result<()> {
    match place {
        Place::BootEntry => site.hear(since, "step seed done", LONG).map(drop),
        Place::Table | Place::Image { .. } | Place::Esp { .. } | Place::Mark => {
            ensure!(site.disk()?.wait_trap(LONG)?, "the install never came there");
            Ok(())
        }
    }
}

fn words(cut: &Cut) -> String {
    format!("of {} unflushed writes {} kept, {} torn, {} lost", cut.unflushed, cut.kept, cut.torn, cut.lost)
}
