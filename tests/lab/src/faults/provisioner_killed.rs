//! `muster serve` is killed twice during one install, right after it has promised the order and while the image is written.
//! It comes back with what it had promised, and the machine is installed once.

use super::site::{AGENT, LONG, Site, told};
use super::{MACHINE, Told, say};
use anyhow::Result;
use serde_json::json;

pub(super) fn tell(site: &mut Site<'_>) -> Result<Told> {
    let since = site.power_on()?;
    site.hear(since, "step claim done", LONG)?;
    site.kill_serve();
    say("`muster serve` was killed after the claim");
    // whatever the machine was fetching, it has noticed when it tells this
    let noticed = site
        .hear(since, "cannot reach the provisioner", AGENT)
        .or_else(|_| site.hear(since, "provisioner", AGENT))?;
    site.serve()?;

    let writing = site.see("the image is being written", LONG, |_, seen| {
        seen.step.as_ref().is_some_and(|step| step.step == "write" && step.done > 0)
    })?;
    let at = writing.step.unwrap_or_default();
    site.kill_serve();
    let mark = site.now();
    say(&format!("`muster serve` was killed at {} of {} MiB of the image", at.done >> 20, at.total >> 20));
    site.hear(mark, "FAILED", AGENT)?;
    site.serve()?;

    let took = site.own_system(since)?;
    let number = site.one_install()?;
    told(
        format!(
            "killed after the claim and at {} of {} MiB of the image; order {number} carried out once, {MACHINE} in its own system after {took:.0} s",
            at.done >> 20,
            at.total >> 20
        ),
        json!({ "seconds": took, "order": number, "killed_at_bytes": at.done, "image_bytes": at.total, "first_noticed": noticed.text }),
    )
}
