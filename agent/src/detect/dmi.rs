//! `/sys/class/dmi/id`: what the firmware says the machine is called. Placeholders count as absent.

use super::text;
use muster_protocol::inventory::Dmi;
use std::path::Path;

pub(super) fn read(root: &Path) -> Dmi {
    let folder = root.join("sys/class/dmi/id");
    let said = |name: &str| text::attribute(folder.join(name)).filter(|text| !is_placeholder(text));
    Dmi {
        vendor: said("sys_vendor"),
        product: said("product_name"),
        board: said("board_name"),
        serial: said("product_serial"),
        uuid: said("product_uuid").map(|uuid| uuid.to_ascii_lowercase()).filter(|uuid| is_uuid(uuid)),
        bios_version: said("bios_version"),
    }
}

/// What vendors leave in when nobody filled the form. Compared without case and without trailing dots.
const PLACEHOLDERS: &[&str] = &[
    "default string",
    "to be filled by o.e.m",
    "to be filled by oem",
    "o.e.m",
    "oem",
    "oem_sn",
    "system manufacturer",
    "system product name",
    "system serial number",
    "system version",
    "system name",
    "base board serial number",
    "base board product name",
    "type2 - board serial number",
    "type1productconfigid",
    "chassis serial number",
    "serial number",
    "product name",
    "none",
    "null",
    "n/a",
    "na",
    "not specified",
    "not applicable",
    "not available",
    "unknown",
    "undefined",
    "invalid",
    "empty",
    "sku",
    "all series",
    "123456789",
    "1234567890",
    "0123456789",
    "012345678",
    "01234567",
    "12345678",
    "1234567",
    "123456",
];

fn is_placeholder(text: &str) -> bool {
    let plain = text.trim_end_matches('.').trim().to_ascii_lowercase();
    let mut letters = plain.chars();
    // "0000000", "FFFFFFFF", "xxxxxxx", "-----" and the empty string: one character over and over says nothing.
    let one_letter = letters.next().is_none_or(|first| letters.all(|c| c == first));
    one_letter || PLACEHOLDERS.contains(&&*plain)
}

/// UUIDs that many boards share: AMI's default in both byte orders, and the textbook ones.
const SHARED_UUIDS: &[&str] = &[
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "01234567-89ab-cdef-0123-456789abcdef",
];

fn is_uuid(uuid: &str) -> bool {
    let groups: Vec<&str> = uuid.split('-').collect();
    let shaped = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|c| c.is_ascii_hexdigit()));
    let digits = || uuid.bytes().filter(|c| *c != b'-');
    let all = |digit: u8| digits().all(|c| c == digit);
    shaped && !all(b'0') && !all(b'f') && !SHARED_UUIDS.contains(&uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_absent() {
        for text in [
            "Default string",
            "To be filled by O.E.M.",
            "System Serial Number",
            "None",
            "0000000",
            "N/A",
            "FFFF",
            "...",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["PF-0001", "LENOVO", "11JN002UGE", "QEMU", "NVIDIA_DGX_Spark"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    #[test]
    fn a_uuid_that_many_boards_share_is_absent() {
        assert!(is_uuid("6f1c7a40-2b7e-11ee-8b1c-a8a159000001"));
        for uuid in [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "03000200-0400-0500-0006-000700080009",
            "garbage",
            "",
        ] {
            assert!(!is_uuid(uuid), "{uuid}");
        }
    }
}
