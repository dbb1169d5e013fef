//! An installed machine whose firmware asks the network first, and whose plug is pulled seven times; twice nobody answers
//! there. Each time it must come up in its own disk's system, and be installed by nobody.

use super::platter::partition;
use super::site::{Site, told};
use super::{Told, say};
use crate::machine::First;
use anyhow::{Context, Result, ensure};
use serde_json::json;

const CYCLES: u64 = 7;
/// In these the provisioner is away.
const ALONE: std::ops::Range<u64> = 3..5;

pub(super) fn tell(site: &mut Site<'_>, seed: u64) -> Result<Told> {
    site.be_installed()?;
    site.machine.reconfigure(First::Network, None);
    let esp = partition(site.disk()?, 1)?;
    let roots = partition(site.disk()?, 2)?.start..partition(site.disk()?, 3)?.end;
    let table = 0..1 << 20;
    let orders = site.orders()?;

    let mut seconds = Vec::new();
    let (mut esp_writes, mut unflushed) = (0, 0);
    for cycle in 0..CYCLES {
        if cycle == ALONE.start {
            site.stop_serve()?;
        }
        if cycle == ALONE.end {
            site.serve()?;
        }
        let answered = !ALONE.contains(&cycle);
        unflushed += site.disk()?.unflushed();
        let writes = |site: &Site<'_>, range: &std::ops::Range<u64>| -> Result<u64> {
            Ok(site.disk()?.changes_in(range.clone()))
        };
        let before = [&table, &roots, &esp].map(|range| writes(site, range));
        let since = site.power_cycle(seed.wrapping_add(cycle))?;
        let took = site.own_system(since).with_context(|| format!("power cycle {}", cycle + 1))?;
        let [table_writes, root_writes, esp_now] = [&table, &roots, &esp].map(|range| writes(site, range));
        let [table_before, roots_before, esp_before] = before;
        ensure!(
            table_writes? == table_before? && root_writes? == roots_before?,
            "power cycle {}: the partition table or a root was written to",
            cycle + 1
        );
        esp_writes += esp_now? - esp_before?;
        ensure!(
            site.machine.console().said_after(since.mark, "Start PXE over IPv4").is_some(),
            "power cycle {}: the firmware did not ask the network",
            cycle + 1
        );
        let who = if answered { "" } else { ", nobody answered on the network" };
        say(&format!("power cycle {} of {CYCLES}: its own system after {took:.0} s{who}", cycle + 1));
        seconds.push(took);
    }
    ensure!(
        site.orders()? == orders,
        "an order was made or carried out: {:?}, before {orders:?}",
        site.orders()?
    );
    let times = seconds.iter().map(|took| format!("{took:.0}")).collect::<Vec<_>>().join(", ");
    told(
        format!(
            "{CYCLES} of {CYCLES} times its own disk's system, after {times} s (4 and 5 without a provisioner); 0 writes to table and roots, {esp_writes} to the ESP"
        ),
        json!({
            "cycles": CYCLES, "seconds": seconds, "without_provisioner": [4, 5], "writes_to_table_and_roots": 0,
            "writes_to_esp": esp_writes, "unflushed_bytes_at_the_cuts": unflushed,
        }),
    )
}
