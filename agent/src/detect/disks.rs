//! `/sys/block`: the devices that could hold a system. Loop, RAM, device-mapper, md, optical and the boot areas of
//! eMMC are not disks.

use super::text;
use muster_protocol::inventory::{Bus, Disk, DiskId};
use std::path::Path;

/// More block devices than any machine of ours; bounds the size of `hello`.
const MAX_DISKS: usize = 256;

pub fn read(root: &Path) -> Vec<Disk> {
    text::entries(&root.join("sys/block"), MAX_DISKS)
        .into_iter()
        .filter(|(name, _)| is_disk(name))
        .map(|(name, folder)| disk(name, &folder))
        .filter(|disk| disk.id.size_bytes > 0)
        .collect()
}

/// The kernel's name of partition `number`: a `p` goes between two digits.
pub fn partition(disk: &str, number: u32) -> String {
    let p = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{p}{number}")
}

/// An allow-list: an unknown kind of block device is never a target.
fn is_disk(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let letters = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_lowercase());
    if let Some(rest) = name.strip_prefix("nvme") {
        // nvme0c0n1 is one path of a multipath namespace, not a disk of its own.
        return rest.split_once('n').is_some_and(|(controller, space)| digits(controller) && digits(space));
    }
    name.strip_prefix("mmcblk").is_some_and(digits)
        || ["sd", "vd", "xvd"].iter().any(|kind| name.strip_prefix(kind).is_some_and(letters))
}

fn disk(name: String, folder: &Path) -> Disk {
    // 512 whatever the block size is: the kernel's unit.
    let size_bytes = text::number(folder.join("size")).and_then(|units| units.checked_mul(512)).unwrap_or(0);
    let block = text::number(folder.join("queue/logical_block_size"));
    Disk {
        id: DiskId { wwn: wwn(folder), serial: serial(folder), size_bytes },
        model: text::attribute(folder.join("device/model"))
            .or_else(|| text::attribute(folder.join("device/name"))),
        bus: bus(&name, folder),
        removable: text::flag(folder.join("removable")),
        rotational: text::flag(folder.join("queue/rotational")),
        logical_block_bytes: block.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(512),
        contents: None,
        name,
    }
}

/// Names made by the disk's maker. `t10.` and `nvme.` are made up from model and serial, so they add nothing.
fn wwn(folder: &Path) -> Option<String> {
    let said =
        text::attribute(folder.join("wwid")).or_else(|| text::attribute(folder.join("device/wwid")))?;
    let (kind, value) = said.split_once('.')?;
    let real =
        matches!(kind, "naa" | "eui" | "uuid") && value.bytes().any(|c| c.is_ascii_hexdigit() && c != b'0');
    real.then(|| said.to_ascii_lowercase())
}

fn serial(folder: &Path) -> Option<String> {
    let said = text::attribute(folder.join("serial"))
        .or_else(|| text::attribute(folder.join("device/serial")))
        .or_else(|| vital_product_data(&text::bytes(folder.join("device/vpd_pg80"))?))?;
    // All zeros is what USB bridges and cheap drives answer when they have none.
    said.bytes().any(|c| c.is_ascii_alphanumeric() && c != b'0').then_some(said)
}

/// SCSI page 0x80: four bytes of header, the last two of them the length (SPC-4 §7.8.16).
fn vital_product_data(page: &[u8]) -> Option<String> {
    let (header, rest) = page.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let text = text::clean(rest.get(..length.min(rest.len()))?);
    (header[1] == 0x80 && !text.is_empty()).then_some(text)
}

/// By the device's place in the tree: a USB disk is called `sda` too.
fn bus(name: &str, folder: &Path) -> Bus {
    let place = std::fs::canonicalize(folder.join("device")).unwrap_or_default();
    let below = |word: &str| {
        place.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    if below("usb") {
        Bus::Usb
    } else if name.starts_with("nvme") {
        Bus::Nvme
    } else if name.starts_with("mmcblk") {
        Bus::Mmc
    } else if name.starts_with("vd") || below("virtio") {
        Bus::Virtio
    } else if below("ata") {
        Bus::Sata
    } else {
        Bus::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_disks_are_disks() {
        for name in ["nvme0n1", "nvme12n3", "sda", "sdaa", "vda", "mmcblk0"] {
            assert!(is_disk(name), "{name}");
        }
        for name in [
            "loop0",
            "ram0",
            "zram0",
            "dm-0",
            "md127",
            "sr0",
            "mmcblk0boot0",
            "mmcblk0rpmb",
            "nvme0c0n1",
            "nvme",
            "sd",
            "nbd0",
            "fd0",
        ] {
            assert!(!is_disk(name), "{name}");
        }
    }

    #[test]
    fn a_partition_is_named_as_the_kernel_does() {
        assert_eq!(partition("sda", 4), "sda4");
        assert_eq!(partition("nvme0n1", 4), "nvme0n1p4");
        assert_eq!(partition("mmcblk0", 1), "mmcblk0p1");
    }

    #[test]
    fn a_short_or_foreign_vpd_page_is_no_serial() {
        assert_eq!(vital_product_data(b"\0\x80\0\x06ABC123trailing"), Some("ABC123".into()));
        assert_eq!(vital_product_data(b"\0\x80\0\xff"), None);
        assert_eq!(vital_product_data(b"\0\x83\0\x03ABC"), None);
        assert_eq!(vital_product_data(b"\0"), None);
    }
}
