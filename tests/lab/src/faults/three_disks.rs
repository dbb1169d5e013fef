//! A machine with three disks, all of them in use; `cluster.toml` names one by its serial. The other two are never written
//! to, and the one not before a person has named what is to be lost.

use super::site::{AGENT, Site, told};
use super::{MACHINE, Told};
use crate::child::run;
use crate::luck::Luck;
use crate::machine::{Bus, DiskSpec, Spec};
use crate::nbd::Disk;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Which of the three is the machine's: not the first.
const OURS: usize = 1;
const FOREIGN: [usize; 2] = [0, 2];
const SERIALS: [&str; 3] = ["PHOTOS-1", "SYSTEM-2", "BACKUP-3"];

/// Puts three disks with something on each into the machine, and names one in its entry.
pub(super) fn hardware(spec: &mut Spec, config: &mut String, folder: &Path) -> Result<()> {
    let size = spec.disks.first().context("a machine has a disk")?.size;
    let disk = |at: usize, bus| DiskSpec { bus, size, serial: SERIALS[at].into() };
    spec.disks = vec![disk(0, Bus::Virtio), disk(OURS, Bus::Nvme), disk(2, Bus::Virtio)];
    let mut table: toml::Table = config.parse()?;
    let machine = table.get_mut("machine").and_then(|all| all.get_mut(0)).and_then(toml::Value::as_table_mut);
    machine
        .context("no machine in cluster.toml")?
        .insert("disk".into(), format!("serial:{}", SERIALS[OURS]).into());
    *config = toml::to_string(&table)?;

    let mut luck = Luck::new(0x6d75_7374);
    for n in 0..SERIALS.len() {
        let path = folder.join(format!("{}.disk{n}", spec.name));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        file.set_len(size)?;
        if n == 0 {
            let mut mke2fs = Command::new("mke2fs");
            mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "photos"]).arg(&path);
            run(mke2fs)?;
        } else {
            // somebody's data, without any table that could be recognised
            let noise: Vec<u8> = (0..1 << 17).flat_map(|_| luck.number().to_le_bytes()).collect();
            for at in [0, 64 << 20, size / 2] {
                file.write_all_at(&noise, at)?;
            }
        }
    }
    Ok(())
}

pub(super) fn tell(site: &mut Site<'_>) -> Result<Told> {
    let since = site.power_on()?;
    let waits = site.see("it waits for a person", AGENT, |_, seen| {
        seen.state.as_deref() == Some("waiting") && seen.reasons.iter().any(|why| why.contains("--wipe"))
    })?;
    // an order without the plan id is refused
    let (code, _) = site.muster.ask(&["node", "install", MACHINE], Duration::from_secs(20))?;
    ensure!(
        code != Some(0),
        "`muster node install` of a disk that is not empty went through without a plan id"
    );
    let ours = site.machine.disk(OURS)?;
    ensure!(ours.asked().changes() == 0, "its disk was written to without an order: {:?}", ours.asked());

    let (_, text) = site.muster.ask(&["plan", MACHINE, "-o", "json"], Duration::from_secs(20))?;
    let plan: Value = serde_json::from_str(&text).context("`muster plan -o json`")?;
    let disks = plan[0]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chosen: Vec<&Value> = disks.iter().filter(|disk| disk["chosen"] == true).collect();
    ensure!(
        disks.len() == 3 && chosen.len() == 1 && chosen[0]["serial"] == SERIALS[OURS],
        "`muster plan` means another disk: {plan}"
    );
    let id = chosen[0]["plan_id"].as_str().context("no plan id")?;
    site.muster.run(&["node", "install", MACHINE, "--wipe", id], Duration::from_secs(20))?;
    let took = site.own_system(since)?;
    let number = site.one_install()?;

    let foreign =
        FOREIGN.iter().map(|n| site.machine.disk(*n).map(Disk::asked)).collect::<Result<Vec<_>>>()?;
    for (n, asked) in FOREIGN.iter().zip(&foreign) {
        ensure!(asked.changes() == 0, "the disk {} was changed: {asked:?}", SERIALS[*n]);
        ensure!(asked.reads > 0, "the disk {} was not even looked at", SERIALS[*n]);
    }
    let ours = site.machine.disk(OURS)?.asked();
    told(
        format!(
            "0 writes before the order by hand; installed by order {number} with plan {id} and in its own system after {took:.0} s; the two other disks: 0 writes, 0 trims, 0 zeroings, {} reads",
            foreign.iter().map(|asked| asked.reads).sum::<u64>()
        ),
        json!({
            "seconds": took, "plan": id, "waited_because": waits.reasons,
            "ours": { "writes": ours.writes, "bytes_written": ours.bytes_written, "trims": ours.trims, "write_zeroes": ours.write_zeroes },
            "others": foreign.iter().map(|asked| json!({
                "reads": asked.reads, "writes": asked.writes, "trims": asked.trims, "write_zeroes": asked.write_zeroes,
            })).collect::<Vec<_>>(),
        }),
    )
}
