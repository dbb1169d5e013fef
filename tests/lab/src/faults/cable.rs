//! The cable comes out twice: while the firmware fetches the boot image, and while the agent writes the node image.

use super::site::{AGENT, LONG, Site, told};
use super::{Told, say};
use anyhow::{Context, Result, ensure};
use serde_json::json;

pub(super) fn tell(site: &mut Site<'_>) -> Result<Told> {
    let began = site.power_on()?;
    site.hear(began, "Downloading NBP file", LONG)?;
    site.machine.cut_link(site.lan)?;
    say("the cable was pulled while the firmware fetched the boot image");
    let gave_up = site.hear(began, "PXE-E", LONG).context("the firmware never gave up")?;
    // the server believes in a client for half a minute of silence
    let explained = site.explained("broke off", AGENT)?;
    let verdict = explained.lines().next().unwrap_or_default().to_owned();
    let disk = site.disk()?.asked();
    ensure!(disk.changes() == 0, "firmware wrote to the disk: {disk:?}");
    // the firmware has no second try at PXE before its HTTP boots: a person switches it off and on
    site.machine.plug_link(site.lan)?;
    let since = site.power_cycle(1)?;

    site.see("the image is being written", LONG, |_, seen| {
        seen.step.as_ref().is_some_and(|step| step.step == "write" && step.done > 0)
    })?;
    site.machine.cut_link(site.lan)?;
    say("the cable was pulled while the node image was written");
    let away = site.see("the status of a machine without a cable", AGENT, |_, seen| {
        seen.state.as_deref() == Some("silent")
    })?;
    let reason = away.reasons.first().cloned().unwrap_or_default();
    ensure!(
        reason.contains("not heard for"),
        "the status says of a machine without a cable: {}",
        away.reasons.join(", ")
    );
    ensure!(site.orders()?.done == 0, "the install was over before the cable was out");
    site.machine.plug_link(site.lan)?;
    let took = site.own_system(since)?;
    let number = site.one_install()?;
    told(
        format!(
            "pulled during TFTP (`{}`; explain: {verdict}; back by a power cycle) and during `write` (status: silent, {reason}); order {number} carried out once, its own system after {took:.0} s",
            gave_up.text.trim()
        ),
        json!({ "firmware_said": gave_up.text, "explain": verdict, "status_without_cable": away.reasons, "order": number, "seconds": took }),
    )
}
