//! Which firmware asks, and for what: options 60 and 93 (RFC 4578, PXE 2.1, UEFI HTTP boot).
//!
//! A client that is not netbooting is told apart here, and only here. What merely looks alike is not netbooting.

use muster_protocol::{
    dhcp::{Options, code},
    ids::Arch,
};
use std::fmt;

/// A netbooting client: how it wants its boot file, and what it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Firmware {
    pub way: Way,
    pub arch: FirmwareArch,
}

/// How a client fetches its boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// `PXEClient`: a name, over TFTP.
    Pxe,
    /// `HTTPClient`: a URL.
    Http,
}

/// Option 93 (IANA "Processor Architecture Types"), as far as machines send it to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FirmwareArch {
    Uefi(Arch),
    /// A BIOS; it cannot start a UKI.
    Bios,
    /// Any other number: recognised as netbooting, not served.
    Other(u16),
}

impl Way {
    /// The vendor class that names it, also echoed in the answer.
    pub fn class(self) -> &'static [u8] {
        match self {
            Self::Pxe => b"PXEClient",
            Self::Http => b"HTTPClient",
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Pxe => "PXE",
            Way::Http => "HTTP boot",
        };
        match self.arch {
            FirmwareArch::Uefi(arch) => write!(f, "UEFI {way} {arch}"),
            FirmwareArch::Bios => write!(f, "BIOS {way}"),
            FirmwareArch::Other(number) => write!(f, "{way}, architecture {number}"),
        }
    }
}

/// The firmware behind a request; `None` if it is not netbooting, or hides what it is.
pub fn recognise(options: &Options) -> Option<Firmware> {
    let class = options.bytes(code::VENDOR_CLASS)?;
    let (way, rest) = [Way::Pxe, Way::Http]
        .into_iter()
        .find_map(|way| class.strip_prefix(way.class()).map(|rest| (way, rest)))?;
    // `PXEClientX` is somebody else's class: behind the word comes a colon or nothing.
    if !matches!(rest.first(), None | Some(b':' | 0)) {
        return None;
    }
    let numbers = match options.architectures() {
        // Option 93 is absent or odd (EDK2 on arm64 was seen to send it in a form that made others take it for a
        // BIOS): option 60 says the same in words.
        none if none.is_empty() => in_words(rest).into_iter().collect(),
        some => some,
    };
    let first = *numbers.first()?;
    // A client may list several, best first; take the first we can serve, so that an odd one in front does no harm.
    let arch = numbers
        .into_iter()
        .map(|number| number_to_arch(way, number))
        .find(|arch| matches!(arch, FirmwareArch::Uefi(_)))
        .unwrap_or_else(|| number_to_arch(way, first));
    Some(Firmware { way, arch })
}

fn number_to_arch(way: Way, number: u16) -> FirmwareArch {
    match (way, number) {
        // 7 is "EFI BC" in RFC 4578's table and x64 in all that was built; 9 is x64 by the letter.
        (Way::Pxe, 7 | 9) | (Way::Http, 16) => FirmwareArch::Uefi(Arch::X86_64),
        (Way::Pxe, 11) | (Way::Http, 19) => FirmwareArch::Uefi(Arch::Aarch64),
        (Way::Pxe, 0) => FirmwareArch::Bios,
        (Way::Pxe | Way::Http, number) => FirmwareArch::Other(number),
    }
}

/// The number in `:Arch:00007:UNDI:003016`.
fn in_words(rest: &[u8]) -> Option<u16> {
    let digits = rest.strip_prefix(b":Arch:")?.get(..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(class: &[u8], architecture: Option<&[u8]>) -> Options {
        let mut options = Options::default();
        options.set(code::VENDOR_CLASS, class);
        if let Some(architecture) = architecture {
            options.set(code::ARCHITECTURE, architecture);
        }
        options
    }

    fn arch(class: &[u8], architecture: Option<&[u8]>) -> Option<FirmwareArch> {
        recognise(&options(class, architecture)).map(|firmware| firmware.arch)
    }

    const X64: FirmwareArch = FirmwareArch::Uefi(Arch::X86_64);
    const ARM64: FirmwareArch = FirmwareArch::Uefi(Arch::Aarch64);

    #[test]
    fn uefi_clients_are_told_apart_by_option_93() {
        assert_eq!(arch(b"PXEClient:Arch:00007:UNDI:003016", Some(&[0, 7])), Some(X64));
        assert_eq!(arch(b"PXEClient", Some(&[0, 9])), Some(X64));
        assert_eq!(arch(b"PXEClient:Arch:00011:UNDI:003000", Some(&[0, 11])), Some(ARM64));
        assert_eq!(arch(b"HTTPClient:Arch:00016:UNDI:003000", Some(&[0, 16])), Some(X64));
        assert_eq!(arch(b"HTTPClient", Some(&[0, 19])), Some(ARM64));
    }

    #[test]
    fn the_class_speaks_where_option_93_is_odd() {
        for odd in [None, Some(&[][..]), Some(&[7][..]), Some(&[0, 11, 0][..])] {
            assert_eq!(arch(b"PXEClient:Arch:00011:UNDI:003000", odd), Some(ARM64), "{odd:?}");
        }
        assert_eq!(arch(b"PXEClient", None), None);
        assert_eq!(arch(b"PXEClient:Arch:7", None), None);
        assert_eq!(arch(b"PXEClient:Arch:99999:UNDI", None), None);
    }

    #[test]
    fn the_first_architecture_we_serve_counts() {
        assert_eq!(arch(b"PXEClient", Some(&[0, 6, 0, 7])), Some(X64));
        assert_eq!(arch(b"PXEClient", Some(&[0, 6, 0, 10])), Some(FirmwareArch::Other(6)));
        // An HTTP number from a PXE client, or the other way round, is not served.
        assert_eq!(arch(b"PXEClient", Some(&[0, 16])), Some(FirmwareArch::Other(16)));
        assert_eq!(arch(b"HTTPClient", Some(&[0, 7])), Some(FirmwareArch::Other(7)));
        assert_eq!(arch(b"PXEClient", Some(&[0, 0])), Some(FirmwareArch::Bios));
    }

    #[test]
    fn what_looks_alike_is_not_netbooting() {
        for class in [
            &b""[..],
            b"PXEClien",
            b"PXEClientX",
            b"pxeclient",
            b"xPXEClient",
            b"HTTPClients:Arch:00016",
            b"MSFT 5.0",
        ] {
            assert_eq!(arch(class, Some(&[0, 7])), None, "{class:?}");
        }
        assert_eq!(recognise(&Options::default()), None);
        // One that counts its NUL in is not another class.
        assert_eq!(arch(b"PXEClient\0", Some(&[0, 7])), Some(X64));
    }
}
