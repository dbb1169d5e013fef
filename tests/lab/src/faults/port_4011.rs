//! A firewall drops what goes to port 4011, on which PXE firmware asks for its boot file. The boot fails soon, `muster node
//! explain` names the port, and without the rule the next power-on comes through.

use super::site::{AGENT, LONG, Site, told};
use super::{Told, say};
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// From the first DISCOVER to the firmware's own words.
const SOON_MS: u64 = 60_000;

pub(super) fn tell(site: &mut Site<'_>) -> Result<Told> {
    site.lan.drop_port(4011, true)?;
    let since = site.power_on()?;
    // the line is there when the first DISCOVER goes out
    let asked = site.hear(since, "Start PXE over IPv4", LONG)?;
    let failed = site.hear(since, "PXE-E", LONG).context("the firmware never gave up")?;
    let took = failed.at_ms - asked.at_ms;
    ensure!(took <= SOON_MS, "the boot failed {took} ms after its first DISCOVER, later than {SOON_MS} ms");
    let explained = site.explained("4011", AGENT)?;
    let verdict = explained.lines().next().unwrap_or_default().to_owned();
    say(&format!("the boot failed after {:.0} s: {}", took as f64 / 1000.0, failed.text.trim()));

    site.lan.drop_port(4011, false)?;
    let since = site.power_cycle(1)?;
    site.hear(since, "as PID 1", LONG).context("without the rule")?;
    let spoke = site.hear(since, "provisioner found", AGENT)?;
    let seconds = (spoke.at_ms - since.ms) as f64 / 1000.0;
    told(
        format!(
            "`{}` {:.0} s after the first DISCOVER; explain: {verdict}; without the rule the agent spoke {seconds:.0} s after power-on",
            failed.text.trim(),
            took as f64 / 1000.0
        ),
        json!({ "failed_after_ms": took, "firmware_said": failed.text.trim(), "explain": explained, "agent_after_s": seconds }),
    )
}
