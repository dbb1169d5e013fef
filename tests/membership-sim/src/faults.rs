//! Restarts, crashes, cuts, losses: what may befall a history, drawn from its luck.

use crate::luck::Luck;

/// Which machine or side, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// k3s dies; the service manager starts it again.
    KillK3s(usize),
    /// Power gone and back: tmpfs is lost, the disk stays.
    Reboot(usize),
    /// Off until `PowerOn`.
    PowerOff(usize),
    PowerOn(usize),
    /// The disk died and was replaced by a blank one.
    LoseDisk(usize),
    /// This machine alone on its side of the switch.
    CutPeers(usize),
    /// This machine does not reach the provisioner.
    CutProvisioner(usize),
    HealAll,
    KillProvisioner,
    /// Cut between saving and sending.
    CrashInTurn,
    StartProvisioner,
    /// A copy of the store's file is put away.
    CopyStore,
    /// That copy is put back in its place, by hand, without a word.
    PutCopyBack,
    /// That copy is restored: the generation rises above all that was seen.
    RestoreCopy,
}

/// What a history may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Menu {
    /// Disks may die.
    pub disks: bool,
    /// The store may be an old copy.
    pub copies: bool,
}

pub fn draw(luck: &mut Luck, menu: Menu, machines: u64) -> Fault {
    loop {
        let at = luck.below(machines) as usize;
        let fault = match luck.below(22) {
            0..=3 => Fault::KillK3s(at),
            4 | 5 => Fault::Reboot(at),
            6 => Fault::PowerOff(at),
            7 | 8 => Fault::PowerOn(at),
            9 => Fault::LoseDisk(at),
            10 => Fault::CutPeers(at),
            11 => Fault::CutProvisioner(at),
            12 | 13 => Fault::HealAll,
            14 => Fault::KillProvisioner,
            15 => Fault::CrashInTurn,
            16 | 17 => Fault::StartProvisioner,
            18 => Fault::CopyStore,
            19 => Fault::PutCopyBack,
            20 => Fault::RestoreCopy,
            _ => Fault::HealAll,
        };
        let allowed = match fault {
            Fault::LoseDisk(_) => menu.disks,
            Fault::CopyStore | Fault::PutCopyBack | Fault::RestoreCopy => menu.copies,
            _ => true,
        };
        if allowed {
            return fault;
        }
    }
}
