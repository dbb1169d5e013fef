//! `/sys/class/net`: physical Ethernet ports. Bridges, bonds, virtual functions and Wi-Fi are not listed.

use super::text;
use muster_protocol::ids::Mac;
use muster_protocol::inventory::Nic;
use std::path::Path;

/// Twice the largest machine anyone tried; bounds the size of `hello`.
const MAX_NICS: usize = 128;
/// ARPHRD_ETHER (include/uapi/linux/if_arp.h).
const ETHERNET: u64 = 1;

pub fn read(root: &Path) -> Vec<Nic> {
    let mut nics: Vec<Nic> = text::entries(&root.join("sys/class/net"), 4 * MAX_NICS)
        .into_iter()
        .filter(|(_, folder)| is_physical(folder))
        .filter_map(|(name, folder)| nic(name, &folder))
        .collect();
    nics.truncate(MAX_NICS);
    nics
}

fn is_physical(folder: &Path) -> bool {
    let there = |name: &str| folder.join(name).symlink_metadata().is_ok();
    let ethernet = text::number(folder.join("type")) == Some(ETHERNET);
    ethernet && there("device") && !there("device/physfn") && !there("phy80211") && !there("wireless")
}

fn nic(name: String, folder: &Path) -> Option<Nic> {
    // A port in a bond shows the bond's address; its own is kept beside it.
    let address = text::attribute(folder.join("bonding_slave/perm_hwaddr"))
        .or_else(|| text::attribute(folder.join("address")))?;
    let mac: Mac = address.parse().ok()?;
    // The multicast bit is never set in a port's own address; all zeros is a port without one.
    if mac.0 == [0; 6] || mac.0[0] & 1 == 1 {
        return None;
    }
    Some(Nic {
        mac,
        driver: text::link_name(folder.join("device/driver")),
        carrier: text::flag(folder.join("carrier")),
        // -1 without a link; virtio says -1 always.
        speed_mbps: text::number(folder.join("speed"))
            .and_then(|mbps| u32::try_from(mbps).ok())
            .filter(|mbps| *mbps > 0),
        name: text::clean(name.as_bytes()),
    })
}
