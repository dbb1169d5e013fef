//! Why an install stopped: at which step, for which cause, and whether trying again may help by itself.

use super::choose::Refusal;
use super::claim::ClaimError;
use super::esp::EspError;
use super::fat::FatError;
use super::fetch::FetchError;
use super::mkdata::DataError;
use super::plan::Unfit;
use super::write::WriteError;
use muster_protocol::ids::Arch;
use muster_protocol::image::BadImage;
use muster_protocol::wire::Undecodable;
use std::io;

/// The steps by name, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Claim,
    Choose,
    Wipe,
    Partition,
    Write,
    Verify,
    Esp,
    Seed,
    BootEntry,
    Mark,
    Reboot,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Choose => "choose",
            Self::Wipe => "wipe",
            Self::Partition => "partition",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Esp => "esp",
            Self::Seed => "seed",
            Self::BootEntry => "bootentry",
            Self::Mark => "mark",
            Self::Reboot => "reboot",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("install stopped at step `{}`", step.name())]
pub struct Failed {
    pub step: Step,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{0}")]
    Refused(#[source] Refusal),
    #[error("the provisioner did not answer the claim: {0}")]
    NoAnswer(String),
    #[error("the claim failed")]
    Claim(#[source] ClaimError),
    #[error("the disk does not fit the layout")]
    Unfit(#[source] Unfit),
    #[error("the node image cannot be installed")]
    Image(#[source] ImageError),
    #[error("{what} cannot be had")]
    Fetch {
        what: &'static str,
        #[source]
        source: FetchError,
    },
    #[error("writing the node image failed")]
    Write(#[source] WriteError),
    #[error(
        "{count} frames of the image read back wrong, the first is {first}: the disk does not keep what it is given"
    )]
    Unverified { count: usize, first: usize },
    #[error("the ESP could not be made")]
    Esp(#[source] EspError),
    #[error("the data partition could not be made")]
    Data(#[source] DataError),
    #[error("the disk failed")]
    Disk(#[source] io::Error),
    #[error("the machine does not reboot")]
    Reboot(#[source] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("its table cannot be read")]
    Undecodable(#[source] Undecodable),
    #[error("its table is not sound")]
    Bad(#[source] BadImage),
    #[error("it is for {image}, this machine is {machine}")]
    OtherArch { image: Arch, machine: Arch },
    #[error("it has {image} bytes, a slot has {slot}")]
    TooLarge { image: u64, slot: u64 },
    #[error("loader and UKI do not fit the ESP")]
    Boot(#[source] FatError),
}

impl Cause {
    /// Whether running again may help by itself. Otherwise a person or the provisioner has to change something, and
    /// the machine waits with this reason.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::Fetch { .. } | Self::Write(_) | Self::Unverified { .. } => true,
            Self::Esp(EspError::Disk(_) | EspError::ReadBack { .. }) => true,
            Self::Data(_) | Self::Disk(_) | Self::Reboot(_) => true,
            Self::Esp(EspError::Layout(_)) => false,
            Self::Refused(_) | Self::Claim(_) | Self::Unfit(_) | Self::Image(_) => false,
        }
    }
}
