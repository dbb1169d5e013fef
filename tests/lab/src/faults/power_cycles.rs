//! An installed machine whose firmware asks the network first, and whose plug is pulled seven times; twice nobody answers
//! there. Each time it must come up in its own disk's system, and be installed by nobody. What starts it is never written
//! to again: table, ESP and roots stay as the install left them.

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
    let starting = [0..1 << 20, partition(site.disk()?, 1)?.start..partition(site.disk()?, 3)?.end];
    let writes = |site: &Site<'_>| -> Result<u64> {
        let disk = site.disk()?;
        Ok(starting.iter().map(|range| disk.changes_in(range.clone())).sum())
    };
    let installed = writes(site)?;
    let orders = site.orders()?;

    let mut seconds = Vec::new();
    let mut unflushed = 0;
    for cycle in 0..CYCLES {
        if cycle == ALONE.start {
            site.stop_serve()?;
        }
        if cycle == ALONE.end {
            site.serve()?;
        }
        let answered = !ALONE.contains(&cycle);
        unflushed += site.disk()?.unflushed();
        let since = site.power_cycle(seed.wrapping_add(cycle))?;
        let took = site.own_system(since).with_context(|| format!("power cycle {}", cycle + 1))?;
        let written = writes(site)? - installed;
        ensure!(
            written == 0,
            "power cycle {}: table, ESP or a root was written to {written} times",
            cycle + 1
        );
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
            "{CYCLES} of {CYCLES} times its own disk's system, after {times} s (4 and 5 without a provisioner); 0 writes to table, ESP and roots"
        ),
        json!({
            "cycles": CYCLES, "seconds": seconds, "without_provisioner": [4, 5], "writes_to_table_esp_and_roots": 0,
            "unflushed_bytes_at_the_cuts": unflushed,
        }),
    )
}
