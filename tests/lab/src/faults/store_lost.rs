//! The provisioner's store is gone. Nobody makes a new one by accident, the installed machine boots on, and a cluster that
//! is founded anew does not take its disk.

use super::base::Base;
use super::site::{Site, told};
use super::{MACHINE, Told, say};
use crate::machine::First;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;

/// `muster serve`: what it needs is not there.
const NOT_FOUND: i32 = 3;

pub(super) fn tell(site: &mut Site<'_>, base: &Base) -> Result<Told> {
    site.be_installed()?;
    let folder = site.muster.folder.clone();
    site.stop_serve()?;
    std::fs::remove_file(folder.join("provisioner/store.redb")).context("removing the store")?;

    // it refuses, and says what to do
    let (code, _) = site.muster.ask(&["serve"], Duration::from_secs(20))?;
    let log = std::fs::read_to_string(site.muster.log())?;
    ensure!(
        code == Some(NOT_FOUND) && log.contains("store.redb` is lost"),
        "`muster serve` without a store left with {code:?}"
    );
    // and nobody founds a second cluster over the keys of the first
    let (again, _) = site.muster.ask(&["init"], Duration::from_secs(20))?;
    ensure!(again == Some(1), "`muster init` over the old keys left with {again:?}");

    site.machine.reconfigure(First::Disk, None);
    let writes = site.disk()?.changes_in(0..site.data_start()?);
    let since = site.power_cycle(1)?;
    let alone = site.own_system(since).context("without a store")?;
    let wrote = site.disk()?.changes_in(0..site.data_start()?) - writes;
    say(&format!("without a store its own system came up after {alone:.0} s"));

    // what an operator does next: a new cluster, beside what is left of the old one
    for part in ["provisioner", "operator"] {
        std::fs::rename(folder.join(part), folder.join(format!("{part}.old")))?;
    }
    base.found(&site.muster)?;
    site.serve()?;
    site.admit()?;

    // from its own disk it is still its own
    let since = site.power_cycle(2)?;
    site.hear(since, super::site::SWITCHING, super::site::LONG).context("beside a new cluster")?;

    // netbooted by the new cluster it says whose disk this is, and leaves it alone
    site.machine.reconfigure(First::Network, None);
    site.machine.power_cut(3)?;
    let before = site.disk()?.asked().changes();
    site.power_on()?;
    let seen = site.see("the new cluster's refusal", super::site::AGENT, |_, seen| {
        seen.reasons.iter().any(|reason| reason.contains("marker of another cluster"))
    })?;
    let changes = site.disk()?.asked().changes() - before;
    ensure!(changes == 0, "the new cluster's boot image changed the disk {changes} times");
    ensure!(seen.order.is_none(), "the new cluster ordered an install of {MACHINE}: {:?}", seen.order);
    told(
        format!(
            "`muster serve` refused (exit 3), the machine booted on after {alone:.0} s; a cluster founded anew waits for a plan id and wrote 0 times to its disk"
        ),
        json!({
            "serve_exit": code, "init_exit": again, "own_system_s": alone, "writes_before_data": wrote,
            "writes_by_the_new_cluster": changes, "the_new_cluster_says": seen.reasons,
        }),
    )
}
