//! `/sys/firmware/efi`: whether there is UEFI, Secure Boot, and a place for variables.

use super::text;
use muster_protocol::inventory::Firmware;
use nix::unistd::{AccessFlags, access};
use std::path::Path;

/// UEFI 2.10 §3.3: the global variables' namespace.
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

pub(super) fn read(root: &Path) -> Firmware {
    let efi = root.join("sys/firmware/efi");
    let variables = efi.join("efivars");
    Firmware {
        uefi: efi.is_dir(),
        // Four bytes of attributes, then one of value.
        secure_boot: text::bytes(variables.join(SECURE_BOOT)).and_then(|value| Some(*value.get(4)? == 1)),
        // An efivarfs that is not mounted is an empty folder; one that is mounted read-only is not writable.
        variables: has_entries(&variables) && access(&variables, AccessFlags::W_OK).is_ok(),
    }
}

fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}
