//! A cluster's boot image: released base parts, the agent as PID 1, and the cluster's trust.
//!
//! Nothing essential is on the command line: without Secure Boot a boot loader may pass its own instead.

use super::base::Base;
use super::cpio::{Archive, CpioError};
use super::uki::{self, Parts, UkiError};
use muster_protocol::ids::Arch;

/// What makes a released boot image a cluster's own.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// The static agent; it is `/init`.
    pub agent: &'a [u8],
    /// Encoded `Trust`, at `/etc/muster/trust`; empty for an image of no cluster.
    pub trust: &'a [u8],
    /// For people, in boot menus: the release of Muster.
    pub version: &'a str,
    /// In place of [`command_line`]'s.
    pub command_line: Option<&'a str>,
}

#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("cannot pack the agent and the trust file")]
    Pack(#[from] CpioError),
    #[error("cannot compress the agent")]
    Compress(#[source] std::io::Error),
    #[error("cannot put the boot image together")]
    Uki(#[from] UkiError),
}

/// The UKI's bytes; the same inputs give the same bytes.
pub fn boot_image(base: &Base, own: &Own<'_>) -> Result<Vec<u8>, ComposeError> {
    let agent = agent_archive(own.agent)?;
    let trust = trust_archive(own.trust)?;
    let default = command_line(base.arch);
    Ok(uki::compose(&Parts {
        stub: &base.stub,
        os_release: &os_release(own.version, base.arch),
        command_line: own.command_line.unwrap_or(&default),
        uname: &base.kernel_release,
        initrd: &uki::initrd(&[&base.initrd, &agent, &trust]),
        linux: &base.linux,
    })?)
}

/// The last console is `/dev/console`, where the kernel's and our own lines go: the serial one, because machines
/// without a screen have it and screens show the kernel's lines all the same.
pub fn command_line(arch: Arch) -> String {
    let serial = match arch {
        Arch::X86_64 => "ttyS0,115200",
        Arch::Aarch64 => "ttyAMA0,115200",
    };
    // `panic=30`: last words stay readable, then the machine tries again by itself. `loglevel=4`: warnings; a
    // serial line at 115200 baud costs seconds when every driver speaks.
    format!("console=tty0 console={serial} panic=30 loglevel=4")
}

/// systemd-boot shows and sorts entries by these words.
fn os_release(version: &str, arch: Arch) -> String {
    let version: String = version.chars().filter(|c| c.is_ascii_graphic() && *c != '"').collect();
    format!(
        "ID=muster\nNAME=\"Muster\"\nPRETTY_NAME=\"Muster {version} ({arch})\"\nVERSION_ID={version}\nIMAGE_ID=muster\nIMAGE_VERSION={version}\n"
    )
}

fn agent_archive(agent: &[u8]) -> Result<Vec<u8>, ComposeError> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, agent)?;
    zstd::bulk::compress(&archive.finish(), AGENT_LEVEL).map_err(ComposeError::Compress)
}

fn trust_archive(trust: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::new();
    // A released image belongs to no cluster yet: its agent says so and waits for a composed one.
    if !trust.is_empty() {
        archive.file("etc/muster/trust", 0o644, trust)?;
    }
    Ok(archive.finish())
}

/// zstd's slowest ordinary level: the agent is compressed once and fetched by every machine.
const AGENT_LEVEL: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pe::fake_stub;

    fn base() -> Base {
        Base {
            arch: Arch::X86_64,
            kernel_release: "6.12.1-amd64".into(),
            linux: b"kernel".to_vec(),
            initrd: b"base!".to_vec(),
            stub: fake_stub(3, 16),
            loader: b"loader".to_vec(),
        }
    }

    const OWN: Own<'_> = Own { agent: b"agent", trust: b"trust", version: "0.1.0", command_line: None };

    #[test]
    fn agent_and_trust_follow_the_base_at_multiples_of_four() {
        let uki = boot_image(&base(), &OWN).unwrap();
        let initrd = uki::section(&uki, ".initrd").unwrap().unwrap();
        assert_eq!(&initrd[..8], b"base!\0\0\0");
        let (agent, trust) = (agent_archive(b"agent").unwrap(), trust_archive(b"trust").unwrap());
        assert_eq!(initrd[8..8 + agent.len()], agent);
        assert_eq!(initrd[initrd.len() - trust.len()..], trust);
        assert_eq!((initrd.len() - trust.len()) % 4, 0);
        let unpacked = zstd::bulk::decompress(&agent, 1 << 20).unwrap();
        assert!(unpacked.windows(5).any(|window| window == b"agent"));
    }

    #[test]
    fn the_same_parts_give_the_same_bytes_and_another_trust_gives_others() {
        let uki = boot_image(&base(), &OWN).unwrap();
        assert_eq!(uki, boot_image(&base(), &OWN).unwrap());
        assert_ne!(uki, boot_image(&base(), &Own { trust: b"tRust", ..OWN }).unwrap());
    }

    #[test]
    fn a_version_cannot_break_out_of_its_quotes() {
        let text = os_release("1\"\nID=evil", Arch::Aarch64);
        assert_eq!(text.lines().filter(|line| line.starts_with("ID=")).count(), 1);
        assert!(text.contains("PRETTY_NAME=\"Muster 1ID=evil (aarch64)\""), "{text}");
    }
}
