//! Which firmware a machine runs, and its private variables, which outlive a power cycle.

use super::spec::Arch;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// (code, variables), the first pair that is there is taken. The paths are those of Debian 12 and 13.
const X86_64: &[(&str, &str)] = &[("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")];
const AARCH64: &[(&str, &str)] = &[
    ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
];
/// The flash banks of QEMU's `virt` machine have this size and take no smaller file.
const VIRT_FLASH: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Firmware {
    pub(crate) code: PathBuf,
    pub(crate) variables: PathBuf,
}

impl Firmware {
    /// Finds the code and makes the machine's own variables unless they are there from before.
    pub(crate) fn prepare(arch: Arch, folder: &Path, name: &str) -> Result<Self> {
        let (pairs, package) = match arch {
            Arch::X86_64 => (X86_64, "ovmf"),
            Arch::Aarch64 => (AARCH64, "qemu-efi-aarch64"),
        };
        let Some((code, template)) =
            pairs.iter().find(|(code, vars)| Path::new(code).exists() && Path::new(vars).exists())
        else {
            bail!("no {} firmware\nhint: apt-get install {package}", arch.word());
        };
        let variables = folder.join(format!("{name}.vars"));
        if !variables.exists() {
            std::fs::copy(template, &variables).with_context(|| format!("copying {template}"))?;
        }
        let mut code = PathBuf::from(code);
        if arch == Arch::Aarch64 {
            pad(&variables)?;
            if code.metadata()?.len() < VIRT_FLASH {
                let padded = folder.join(format!("{name}.code"));
                std::fs::copy(&code, &padded).with_context(|| format!("copying {}", code.display()))?;
                pad(&padded)?;
                code = padded;
            }
        }
        Ok(Self { code, variables })
    }
}

fn pad(file: &Path) -> Result<()> {
    let what = || format!("padding {}", file.display());
    let open = std::fs::File::options().write(true).open(file).with_context(what)?;
    if open.metadata().with_context(what)?.len() < VIRT_FLASH {
        open.set_len(VIRT_FLASH).with_context(what)?;
    }
    Ok(())
}
