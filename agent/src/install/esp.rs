//! `esp`: the boot loader and the UKI on a FAT32 file system, whole or not at all.
//!
//! The partition's first 4 KiB make it a file system. They are zeroed first and written last, each behind a flush, and
//! only after everything else has been read back: firmware never starts half a loader.

use super::disk::{CHUNK, Disk};
use super::fat::{self, Fat, FatError};
use super::plan::Part;
use muster_protocol::ids::{Arch, Digest};
use std::io;

/// No menu and no editor: nobody sits at the console, and who does shall not get a kernel command line.
const LOADER_CONF: &[u8] = b"timeout 0\neditor no\nauto-firmware no\n";

#[derive(Debug, thiserror::Error)]
pub enum EspError {
    #[error("the boot files do not fit")]
    Layout(#[from] FatError),
    #[error("the disk failed")]
    Disk(#[from] io::Error),
    #[error("the disk gives back other bytes than were written at {at}")]
    ReadBack { at: u64 },
}

/// File name of a UKI without boot counter: kernel release and the start of its digest. Signs that FAT or
/// systemd-boot's counter could take amiss (Debian's releases have a `+`) become `_`.
pub fn uki_name(kernel_release: &str, uki: &Digest) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    let release: String = kernel_release.chars().take(64).map(plain).collect();
    let digest = uki.to_string();
    format!("muster-{release}-{}", digest.get(..8).unwrap_or(&digest))
}

/// Name of the loader by architecture, as firmware looks for it (UEFI 2.10 §3.5.1.1) and as systemd calls its own.
pub fn loader_paths(arch: Arch) -> [&'static str; 2] {
    match arch {
        Arch::X86_64 => ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"],
        Arch::Aarch64 => ["EFI/BOOT/BOOTAA64.EFI", "EFI/systemd/systemd-bootaa64.efi"],
    }
}

/// What is to lie on the ESP.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    pub arch: Arch,
    pub loader: &'a [u8],
    pub uki_name: &'a str,
    pub uki: &'a [u8],
}

impl Files<'_> {
    fn list(&self) -> Vec<(String, &[u8])> {
        let contents = [self.loader, self.loader, LOADER_CONF, self.uki];
        paths(self.arch, self.uki_name).into_iter().zip(contents).collect()
    }
}

/// The UKI has no boot counter: it is the only one, and whoever counts renames it on FAT, where a power cut can lose both
/// names (docs/decisions/0007-a-uki-without-a-counter.md).
fn paths(arch: Arch, uki_name: &str) -> [String; 4] {
    let [fallback, own] = loader_paths(arch);
    [fallback.into(), own.into(), "loader/loader.conf".into(), format!("EFI/Linux/{uki_name}.efi")]
}

/// Whether a loader and a UKI of these lengths will fit, before anything is fetched or written.
pub fn fits(
    part: &Part,
    block_bytes: u32,
    uki_name: &str,
    loader_bytes: u64,
    uki_bytes: u64,
) -> Result<(), FatError> {
    // Names are equally long on every architecture.
    let paths = paths(Arch::X86_64, uki_name);
    let lengths = [loader_bytes, loader_bytes, LOADER_CONF.len() as u64, uki_bytes];
    let files: Vec<(&str, u64)> = paths.iter().map(String::as_str).zip(lengths).collect();
    layout(part, block_bytes, &files).map(drop)
}

pub fn write(
    disk: &mut dyn Disk,
    part: &Part,
    files: &Files<'_>,
    told: &mut dyn FnMut(u64),
) -> Result<u64, EspError> {
    let files = files.list();
    let files = files.as_slice();
    let lengths: Vec<(&str, u64)> =
        files.iter().map(|(path, bytes)| (path.as_str(), bytes.len() as u64)).collect();
    let fat = layout(part, disk.block_bytes(), &lengths)?;
    let start = part.bytes.start;
    disk.write_at(start, &[0; fat::HEAD_BYTES])?;
    disk.flush()?;
    let mut done = 0;
    for (at, bytes) in pieces(&fat, files) {
        write_padded(disk, start + at, bytes)?;
        done += bytes.len() as u64;
        told(done);
    }
    disk.flush()?;
    for (at, bytes) in pieces(&fat, files) {
        compare(disk, start + at, bytes)?;
    }
    disk.write_at(start, &fat.head)?;
    disk.flush()?;
    compare(disk, start, &fat.head)?;
    Ok(done + fat.head.len() as u64)
}

fn layout(part: &Part, block_bytes: u32, files: &[(&str, u64)]) -> Result<Fat, FatError> {
    let [a, b, c, d, ..] = part.guid.0;
    let bytes = part.bytes.end - part.bytes.start;
    fat::layout(bytes, block_bytes, u32::from_le_bytes([a, b, c, d]), b"MUSTER-ESP ", files)
}

/// Everything but the head, in pieces of at most 1 MiB.
fn pieces<'a>(fat: &'a Fat, files: &'a [(String, &'a [u8])]) -> impl Iterator<Item = (u64, &'a [u8])> {
    let system = fat.rest.iter().map(|(at, bytes)| (*at, bytes.as_slice()));
    let contents = fat.files.iter().zip(files).map(|(at, (_, bytes))| (*at, *bytes));
    system.chain(contents).flat_map(|(at, bytes)| {
        bytes.chunks(CHUNK as usize).enumerate().map(move |(piece, bytes)| (at + piece as u64 * CHUNK, bytes))
    })
}

/// A file's last piece ends anywhere; the rest of its block is zeros.
fn write_padded(disk: &mut dyn Disk, at: u64, bytes: &[u8]) -> io::Result<()> {
    let block = disk.block_bytes() as usize;
    if bytes.len().is_multiple_of(block) {
        return disk.write_at(at, bytes);
    }
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(block), 0);
    disk.write_at(at, &padded)
}

fn compare(disk: &mut dyn Disk, at: u64, bytes: &[u8]) -> Result<(), EspError> {
    let mut back = vec![0; bytes.len().next_multiple_of(disk.block_bytes() as usize)];
    disk.read_at(at, &mut back)?;
    if back.starts_with(bytes) { Ok(()) } else { Err(EspError::ReadBack { at }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uki_name_has_no_sign_that_counts_boots() {
        let name = uki_name("6.12.48+deb13-amd64", &Digest([0x12; 32]));
        assert_eq!(name, "muster-6.12.48_deb13-amd64-12121212");
        assert_eq!(uki_name("../../x", &Digest([0; 32])), "muster-.._.._x-00000000");
    }

    #[test]
    fn both_architectures_have_their_names() {
        let paths = paths(Arch::Aarch64, "muster-1-2");
        assert_eq!(paths[0], "EFI/BOOT/BOOTAA64.EFI");
        assert_eq!(paths[3], "EFI/Linux/muster-1-2.efi");
    }
}
