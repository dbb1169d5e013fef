//! `muster serve` is killed twice during one install, right after it has promised the order and while the image is written.
//! It comes back with what it had promised, and the machine is installed once.

use super::site::{AGENT, LONG, Site, told};
use super::{MACHINE, Told, say};
use anyhow::{Context, Result};
use serde_json::json;

pub(super) fn tell(site: &mut Site<'_>) -> Result<Told> {
    let since = site.power_on()?;
    site.hear(since, "step claim done", LONG)?;
    kill(site, "after the claim")?;

    let writing = site.see("the image is being written", LONG, |_, seen| {
        seen.step.as_ref().is_some_and(|step| step.step == "write" && step.done > 0)
    })?;
    let step = writing.step.unwrap_or_default();
    let at = format!("at {} of {} MiB of the image", step.done >> 20, step.total >> 20);
    kill(site, &at)?;

    let took = site.own_system(since)?;
    let number = site.one_install()?;
    told(
        format!(
            "killed after the claim and {at}; order {number} carried out once, {MACHINE} in its own system after {took:.0} s"
        ),
        json!({ "seconds": took, "order": number, "killed_at_bytes": step.done, "image_bytes": step.total }),
    )
}

/// It stays away until the machine has noticed: its console says that the install stopped.
fn kill(site: &mut Site<'_>, when: &str) -> Result<()> {
    let mark = site.now();
    site.kill_serve();
    say(&format!("`muster serve` was killed {when}"));
    site.hear(mark, "FAILED", AGENT).context("the machine did not notice")?;
    site.serve()
}
