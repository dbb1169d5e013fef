//! Hardware classes: what detection says a machine is, and whether that fits what was declared.

use crate::ids::{Arch, words};
use crate::inventory::Inventory;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

words!(
    /// A named kind of hardware.
    Class {
        MiniPc = "mini-pc",
        DgxSpark = "dgx-spark",
        RtxHost = "rtx-host",
        /// Nothing we know by name.
        Generic = "generic",
    }
);

/// An operator's own line in the table of mini PCs, from `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmiRule {
    pub class: Class,
    pub vendor: String,
    /// A prefix of the product name; empty means any product of that vendor.
    pub product: String,
}

const NVIDIA: u16 = 0x10de;
/// The integrated GPU of a GB10 (facts: Gentoo wiki, DGX Spark).
const GB10_GPU: u16 = 0x2e12;

/// Vendor and product prefix of small x86 machines. A hint for recognition, never an admission.
const MINI_PCS: &[(&str, &str)] = &[
    ("LENOVO", "11"), // ThinkCentre M-series "Tiny" machine types start with 11
    ("LENOVO", "12"),
    ("LENOVO", "ThinkCentre"),
    ("Intel(R) Client Systems", "NUC"),
    ("ASUSTeK COMPUTER INC.", "NUC"),
    ("AZW", ""),
    ("Micro Computer (HK) Tech Limited", ""),
    ("GMKtec", ""),
    ("Shenzhen Meigao Electronic Equipment Co.,Ltd", ""),
    ("HP", "HP EliteDesk"),
    ("HP", "HP ProDesk"),
    ("HP", "HP Elite Mini"),
    ("HP", "HP Pro Mini"),
    ("Dell Inc.", "OptiPlex"),
    ("Dell Inc.", "Dell Pro Micro"),
];

/// OEM boxes with the same GB10 inside; their PCI device says so too, this only helps before the bus is scanned.
const GB10_BOXES: &[(&str, &str)] = &[
    ("NVIDIA", "NVIDIA_DGX_Spark"),
    ("ASUSTeK COMPUTER INC.", "GX10"),
    ("Dell Inc.", "Dell Pro Max with GB10"),
    ("HP", "HP ZGX Nano"),
    ("LENOVO", "ThinkStation PGX"),
    ("Micro-Star International Co., Ltd.", "EdgeXpert"),
    ("Acer", "Veriton GN100"),
    ("Gigabyte Technology Co., Ltd.", "AI TOP ATOM"),
];

/// What this machine is (design §12).
pub fn classify(inventory: &Inventory, own: &[DmiRule]) -> Class {
    let vendor = inventory.dmi.vendor.as_deref().unwrap_or_default();
    let product = inventory.dmi.product.as_deref().unwrap_or_default();
    let named = |(v, p): &(&str, &str)| *v == vendor && product.starts_with(p);

    if let Some(rule) = own.iter().find(|rule| rule.vendor == vendor && product.starts_with(&*rule.product)) {
        return rule.class;
    }
    match inventory.arch {
        Arch::Aarch64 => {
            let gpu = inventory.pci.iter().any(|d| d.vendor == NVIDIA && d.device == GB10_GPU);
            let board = inventory.dmi.board.as_deref() == Some("P4242");
            if gpu || board || GB10_BOXES.iter().any(named) { Class::DgxSpark } else { Class::Generic }
        }
        Arch::X86_64 => {
            let gpu = inventory.pci.iter().any(|d| d.vendor == NVIDIA && d.class >> 16 == 0x03);
            if gpu {
                Class::RtxHost
            } else if MINI_PCS.iter().any(named) {
                Class::MiniPc
            } else {
                Class::Generic
            }
        }
    }
}

/// Declared and detected class fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fit {
    Detected,
    /// Nothing contradicts the declaration, nothing proves it; shown as "declared, not detected".
    DeclaredOnly,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detected => "detected",
            Self::DeclaredOnly => "declared, not detected",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("declared `{declared}`, but the hardware is `{detected}`")]
pub struct WrongClass {
    pub declared: Class,
    pub detected: Class,
}

/// A generic machine satisfies any declaration; another named class is refused.
pub fn fits(declared: Class, detected: Class) -> Result<Fit, WrongClass> {
    match detected {
        d if d == declared => Ok(Fit::Detected),
        Class::Generic => Ok(Fit::DeclaredOnly),
        Class::MiniPc | Class::DgxSpark | Class::RtxHost => Err(WrongClass { declared, detected }),
    }
}
