//! `/sys/bus/pci/devices`: slot, ids and class of every function.

use super::text;
use muster_protocol::inventory::PciDevice;
use std::path::Path;

/// More functions than any machine of ours; bounds the size of `hello`.
const MAX_DEVICES: usize = 1024;

pub(super) fn read(root: &Path) -> Vec<PciDevice> {
    let folder = root.join("sys/bus/pci/devices");
    let mut devices: Vec<PciDevice> = text::entries(&folder, 4 * MAX_DEVICES)
        .into_iter()
        .filter(|(slot, _)| is_slot(slot))
        .filter_map(|(slot, folder)| {
            let id = |name: &str| text::number(folder.join(name)).and_then(|id| u16::try_from(id).ok());
            let class = text::number(folder.join("class")).and_then(|class| u32::try_from(class).ok());
            Some(PciDevice { vendor: id("vendor")?, device: id("device")?, class: class?, slot })
        })
        .collect();
    devices.sort_by(|a, b| a.slot.cmp(&b.slot));
    devices.truncate(MAX_DEVICES);
    devices
}

/// `domain:bus:device.function`; domains have four digits or more (VMD makes 10000:…, DGX Spark has 000f:…).
fn is_slot(text: &str) -> bool {
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|c| c.is_ascii_hexdigit())
    };
    let mut parts = text.split([':', '.']);
    let mut next = || parts.next().unwrap_or_default();
    hex(next(), 4..=8)
        && hex(next(), 2..=2)
        && hex(next(), 2..=2)
        && hex(next(), 1..=1)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_may_have_more_than_four_digits() {
        for slot in ["0000:00:1f.2", "000f:01:00.0", "10000:e1:00.0"] {
            assert!(is_slot(slot), "{slot}");
        }
        for slot in ["", "00:1f.2", "0000:00:1f", "0000:00:1f.2.3", "zzzz:00:00.0", "123456789:00:00.0"] {
            assert!(!is_slot(slot), "{slot}");
        }
    }
}
