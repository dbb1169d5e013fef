//! Machines that netboot and are not declared: counted and listed, newest first, in memory only.

use super::firmware::Firmware;
use muster_protocol::ids::Mac;
use std::{collections::BTreeMap, time::SystemTime};

/// The newest strangers.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<Mac, Stranger>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stranger {
    pub first: SystemTime,
    pub last: SystemTime,
    pub times: u64,
    pub firmware: Firmware,
}

impl Seen {
    /// Keeps that `mac` asked; forgets whoever has been silent longest when there are too many.
    pub fn note(&mut self, now: SystemTime, mac: Mac, firmware: Firmware) {
        if let Some(stranger) = self.0.get_mut(&mac) {
            (stranger.last, stranger.firmware) = (now, firmware);
            stranger.times = stranger.times.saturating_add(1);
            return;
        }
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, stranger)| stranger.last).map(|(mac, _)| *mac);
            oldest.and_then(|mac| self.0.remove(&mac));
        }
        self.0.insert(mac, Stranger { first: now, last: now, times: 1, firmware });
    }

    /// A machine that was declared since is no stranger.
    pub fn forget(&mut self, mac: Mac) {
        self.0.remove(&mac);
    }

    /// Newest first.
    pub fn list(&self) -> Vec<(Mac, Stranger)> {
        let mut list: Vec<_> = self.0.iter().map(|(mac, stranger)| (*mac, *stranger)).collect();
        list.sort_by_key(|(mac, stranger)| (std::cmp::Reverse(stranger.last), *mac));
        list
    }
}

/// A thousand machines and some; about 64 kB.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::firmware::{FirmwareArch, Way};
    use muster_protocol::ids::Arch;
    use std::time::Duration;

    const FIRMWARE: Firmware = Firmware { way: Way::Pxe, arch: FirmwareArch::Uefi(Arch::X86_64) };

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn the_silent_longest_is_forgotten_first() {
        let mut seen = Seen::default();
        let at = |n: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(n.into());
        for n in 0..1024 {
            seen.note(at(n), mac(n), FIRMWARE);
        }
        seen.note(at(2000), mac(0), FIRMWARE);
        seen.note(at(2001), mac(5000), FIRMWARE);
        let list = seen.list();
        assert_eq!(list.len(), 1024);
        assert_eq!((list[0].0, list[1].0, list[1].1.times), (mac(5000), mac(0), 2));
        assert!(!list.iter().any(|(have, _)| *have == mac(1)), "the oldest is gone");
    }
}
