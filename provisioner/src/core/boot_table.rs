//! Who is answered at boot and with what, and which files are served under which names.

use super::{Core, CoreError, machine_row};
use crate::boot::event::{BootEvent, What};
use crate::boot::seen::Stranger;
use crate::boot::table::{BootFile, BootTable, Declared, Path, System};
use crate::config::meant::{Os, Quirk};
use crate::store::Read;
use crate::store::artifacts::{self, latest};
use crate::store::rows::{ARTIFACTS, ArtifactFile, ArtifactKind, MachineRow};
use muster_protocol::ids::{Arch, Digest, Mac};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// A file under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub digest: Digest,
}

impl Core {
    pub fn boot_table(&self) -> Result<BootTable, CoreError> {
        let view = self.store.view()?;
        let rows = view.all(ARTIFACTS, artifacts::word(ArtifactKind::Uki))?;
        let ukis: Vec<Digest> = rows.iter().filter_map(|(_, row)| Some(row.files.first()?.digest)).collect();
        let mut table = BootTable::default();
        for machine in &self.config.machines {
            let row = machine_row(&view, &machine.name)?;
            let system = match machine.os {
                Os::Keep => System::Keep,
                Os::Muster => System::Muster { image: self.own_image(&row, &ukis) },
            };
            let path = match machine.quirks.contains(&Quirk::PxeBypass) {
                true => Path::Bypass,
                false => Path::Binl,
            };
            let declared = Declared { node: machine.name.clone(), system, path };
            table.machines.extend(machine.macs.iter().map(|mac| (*mac, declared.clone())));
        }
        for arch in Arch::ALL {
            if latest(&view, ArtifactKind::Uki, *arch, None)?.is_some()
                && let Ok(file) = BootFile::new(&current_name(*arch))
            {
                table.images.insert(*arch, file);
            }
        }
        Ok(table)
    }

    /// An installed machine gets the very image that its marker records, as long as it is here.
    fn own_image(&self, row: &MachineRow, ukis: &[Digest]) -> Option<BootFile> {
        let marker = row.marker.filter(|marker| marker.installed && marker.cluster == self.trust.cluster)?;
        ukis.contains(&marker.uki).then(|| BootFile::new(&uki_name(&marker.uki)).ok())?
    }

    /// Every registered file by digest, and boot files by their names.
    pub fn served(&self) -> Result<Vec<Served>, CoreError> {
        let view = self.store.view()?;
        let mut served = Vec::new();
        let mut add = |name: String, file: &ArtifactFile| {
            let path = artifacts::path(&self.artifacts, &file.digest);
            served.push(Served { name, path, bytes: file.bytes, digest: file.digest });
        };
        for (_, row) in view.all(ARTIFACTS, "")? {
            for file in &row.files {
                add(file.digest.to_string(), file);
            }
            match (row.kind, row.files.first()) {
                (ArtifactKind::Uki, Some(file)) => add(uki_name(&file.digest), file),
                (ArtifactKind::Uki, None)
                | (
                    ArtifactKind::Loader | ArtifactKind::NodeImage | ArtifactKind::Kata | ArtifactKind::K3s,
                    _,
                ) => {}
            }
        }
        for arch in Arch::ALL {
            if let Some(row) = latest(&view, ArtifactKind::Uki, *arch, None)?
                && let Some(file) = row.files.first()
            {
                add(current_name(*arch), file);
            }
        }
        served.sort();
        served.dedup();
        Ok(served)
    }

    /// What DHCP, TFTP or HTTP saw.
    pub fn note_boot(&mut self, event: &BootEvent) {
        let unix_ms = event.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let declared = |mac: &Mac| self.config.machines.iter().any(|machine| machine.macs.contains(mac));
        if let (Some(mac), What::DhcpDiscover { firmware }) = (event.mac, &event.what)
            && !declared(&mac)
        {
            self.strangers.note(event.at, mac, *firmware);
        }
        if event.mac.as_ref().is_none_or(declared) {
            self.traces.note(u64::try_from(unix_ms).unwrap_or(0), event.mac, event.peer, &event.what);
        }
    }

    /// Machines that netboot here and are not declared, newest first.
    pub fn strangers(&self) -> Vec<(Mac, Stranger)> {
        self.strangers.list()
    }
}

/// What a machine boots that has nothing of its own.
fn current_name(arch: Arch) -> String {
    format!("boot-{arch}.efi")
}

fn uki_name(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("uki-{}.efi", hex.get(..32).unwrap_or_default())
}
