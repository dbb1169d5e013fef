//! What this machine is made of, read from sysfs and proc below a root folder.
//!
//! Facts only, no judgement: the class is `protocol::class`'s business. The root is an argument, so that a fixture
//! folder is a machine. Nothing here fails: what cannot be read or believed is absent, because a machine with odd
//! firmware must still be able to say hello.

/// Processor and memory.
mod cpu;
/// Block devices that could hold a system.
pub mod disks;
/// SMBIOS, without placeholders.
mod dmi;
/// UEFI, Secure Boot, variables.
mod firmware;
/// Ethernet ports.
pub mod nics;
/// The PCI bus.
mod pci;
/// Attributes as clean text.
mod text;

use muster_protocol::ids::Arch;
use muster_protocol::inventory::Inventory;
use std::path::Path;

/// Everything detection knows; disks' `contents` stay `None`, because looking at them is the installer's business.
pub fn inventory(root: &Path) -> Inventory {
    let arch = arch(root);
    Inventory {
        arch,
        dmi: dmi::read(root),
        cpu: cpu::read(root),
        memory_bytes: cpu::memory_bytes(root),
        disks: disks::read(root),
        nics: nics::read(root),
        pci: pci::read(root),
        firmware: firmware::read(root),
        kvm: kvm(root),
    }
}

/// The kernel says it since 6.1; an older one runs the architecture this program was built for.
fn arch(root: &Path) -> Arch {
    let said = text::attribute(root.join("proc/sys/kernel/arch"));
    said.and_then(|word| word.parse().ok()).unwrap_or(if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else {
        Arch::X86_64
    })
}

/// Opening it is the test: the node may be there while virtualisation is off in the firmware.
fn kvm(root: &Path) -> bool {
    std::fs::File::options().read(true).write(true).open(root.join("dev/kvm")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_root_is_an_empty_inventory() {
        let inventory = inventory(Path::new("/nonexistent"));
        assert!(inventory.disks.is_empty() && inventory.nics.is_empty() && inventory.pci.is_empty());
        assert_eq!(inventory.dmi, muster_protocol::inventory::Dmi::default());
        assert!(!inventory.kvm && !inventory.firmware.uefi);
    }
}
