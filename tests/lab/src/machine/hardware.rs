//! What the machines say they are: SMBIOS strings as real products have them, so that detection sees the real thing.
//!
//! QEMU has no NVIDIA GPU: a machine that wears the workstation's strings is still `generic` to detection, "declared, not
//! detected". That is listed as a stand-in, here and in every report.

use std::fmt::Write;

/// One product's strings. `board` is what `/sys/class/dmi/id/board_name` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware {
    pub vendor: &'static str,
    pub product: &'static str,
    pub version: &'static str,
    pub board_vendor: &'static str,
    pub board: &'static str,
    /// What detection cannot see in QEMU, in words; none when the strings alone decide.
    pub stand_in: Option<&'static str>,
}

pub const THINKCENTRE: Hardware = Hardware {
    vendor: "LENOVO",
    product: "11JN002QGE",
    version: "ThinkCentre M75q Gen 2",
    board_vendor: "LENOVO",
    board: "3188",
    stand_in: None,
};

pub const NUC: Hardware = Hardware {
    vendor: "Intel(R) Client Systems",
    product: "NUC11TNHi5",
    version: "M11904-404",
    board_vendor: "Intel Corporation",
    board: "NUC11TNBi5",
    stand_in: None,
};

pub const DGX_SPARK: Hardware = Hardware {
    vendor: "NVIDIA",
    product: "NVIDIA_DGX_Spark",
    version: "A.7",
    board_vendor: "NVIDIA",
    board: "P4242",
    stand_in: Some("GB10: a QEMU virt machine with the SMBIOS strings of a DGX Spark; no GPU"),
};

pub const WORKSTATION: Hardware = Hardware {
    vendor: "ASUSTeK COMPUTER INC.",
    product: "Pro WS W790E-SAGE SE",
    version: "System Version",
    board_vendor: "ASUSTeK COMPUTER INC.",
    board: "Pro WS W790E-SAGE SE",
    stand_in: Some("RTX GPU: QEMU has none, so the class is declared, not detected"),
};

impl Hardware {
    /// QEMU's `-smbios` options. A comma inside a value is doubled, that is QEMU's escape.
    pub(crate) fn smbios(&self, serial: &str, uuid: &str) -> Vec<String> {
        let option = |kind: u8, fields: &[(&str, &str)]| {
            let mut out = format!("type={kind}");
            for (key, value) in fields {
                let _ = write!(out, ",{key}={}", value.replace(',', ",,"));
            }
            out
        };
        vec![
            option(0, &[("vendor", "muster lab"), ("version", "EDK2 in QEMU")]),
            option(
                1,
                &[
                    ("manufacturer", self.vendor),
                    ("product", self.product),
                    ("version", self.version),
                    ("serial", serial),
                    ("uuid", uuid),
                ],
            ),
            option(2, &[("manufacturer", self.board_vendor), ("product", self.board), ("serial", serial)]),
            option(3, &[("manufacturer", self.vendor), ("serial", serial)]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_product_name_does_not_end_the_field() {
        let odd = Hardware { vendor: "Shenzhen Meigao Electronic Equipment Co.,Ltd", ..NUC };
        assert!(
            odd.smbios("s", "u")[1]
                .contains("manufacturer=Shenzhen Meigao Electronic Equipment Co.,,Ltd,product=")
        );
    }
}
