//! What an install would do, before it is done: disks with what is on them, the plan ids, and what would be next.

use super::manifest::image;
use super::ordering::newest_order;
use super::{Core, CoreError, Now, machine_row};
use crate::cluster::disks;
use crate::cluster::orders::{self, Next, Situation};
use crate::config::meant::{Machine, Os};
use crate::store::Read;
use crate::store::rows::MachineRow;
use muster_protocol::order::Wipe;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanPart {
    pub name: String,
    pub role: String,
    pub class: String,
    /// What happens at its next hello, in words.
    pub next: String,
    pub disks: Vec<DiskPart>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskPart {
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub size_bytes: u64,
    pub removable: bool,
    /// `None`: not looked at.
    pub empty: Option<bool>,
    pub found: Vec<String>,
    /// Confirms this disk with what is on it now.
    pub plan_id: Option<String>,
    /// The rule in cluster.toml means this one.
    pub chosen: bool,
}

impl Core {
    pub fn plan(&self, now: Now) -> Result<Vec<PlanPart>, CoreError> {
        let view = self.store.view()?;
        let mut parts = Vec::new();
        for machine in &self.config.machines {
            let row = machine_row(&view, &machine.name)?;
            parts.push(PlanPart {
                name: machine.name.to_string(),
                role: machine.role.to_string(),
                class: machine.class.to_string(),
                next: self.next_step(now, &view, machine, &row)?,
                disks: disk_parts(machine, &row),
            });
        }
        Ok(parts)
    }

    fn next_step(
        &self,
        now: Now,
        view: &impl Read,
        machine: &Machine,
        row: &MachineRow,
    ) -> Result<String, CoreError> {
        if machine.os == Os::Keep {
            return Ok("keeps its own system".into());
        }
        let (Some(admitted), Some(inventory)) = (row.admitted, row.inventory.as_ref()) else {
            return Ok(match row.pending.last() {
                Some(pending) => format!("waits for approval of key {}", pending.key.fingerprint()),
                None => "not seen yet".into(),
            });
        };
        if let Some(why) = self.frozen(now)? {
            return Ok(format!("nothing: {why}"));
        }
        let image = image(view, &self.config, machine, inventory.arch)?;
        let order = newest_order(view, &machine.name)?;
        let member = self.member_gate(now, machine);
        let situation = Situation {
            cluster: self.trust.cluster,
            key: admitted.key.fingerprint(),
            machine,
            inventory,
            marker: row.marker.as_ref(),
            order: order.as_ref(),
            image: image.as_ref().map(|image| image.index).map_err(String::as_str),
            member: member.as_ref().map(|_| ()).map_err(String::as_str),
            now_unix: now.unix(),
        };
        Ok(match orders::next(&situation) {
            Next::Boot => "boots from its disk".into(),
            Next::Give(number) => format!("installs by order {number}"),
            Next::Issue { disk, wipe } => {
                let disk = disk.serial.or(disk.wwn).unwrap_or_default();
                match wipe {
                    Wipe::OnlyEmpty => format!("is ordered to install on the empty disk {disk}"),
                    Wipe::Plan(plan) => format!("is ordered to install on {disk} by plan {plan}"),
                }
            }
            Next::Wait(wait) => format!("waits: {}", wait.reason),
        })
    }
}

fn disk_parts(machine: &Machine, row: &MachineRow) -> Vec<DiskPart> {
    let Some(inventory) = &row.inventory else { return Vec::new() };
    let chosen = disks::choose(&machine.disk, &inventory.disks).ok().map(|disk| disk.id.clone());
    let part = |disk: &muster_protocol::inventory::Disk| DiskPart {
        name: disk.name.clone(),
        model: disk.model.clone(),
        serial: disk.id.serial.clone(),
        wwn: disk.id.wwn.clone(),
        size_bytes: disk.id.size_bytes,
        removable: disk.removable,
        empty: disk.contents.as_ref().map(|contents| contents.empty),
        found: disk.contents.as_ref().map(|contents| contents.found.clone()).unwrap_or_default(),
        plan_id: disks::plan_of(disk).map(|plan| plan.to_string()),
        chosen: chosen.as_ref() == Some(&disk.id),
    };
    inventory.disks.iter().map(part).collect()
}
