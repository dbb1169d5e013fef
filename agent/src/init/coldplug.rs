//! Drivers for what is there: every device's modalias below `/sys/devices` is looked up, like udev's coldplug.
//!
//! A driver brings new devices, so a pass is repeated while a boot waits for something.

use super::modules::Index;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Coldplug {
    index: Index,
    devices: PathBuf,
    seen: BTreeSet<String>,
    loaded: BTreeSet<PathBuf>,
}

/// Folders below each other in `/sys/devices`: a USB device behind three hubs has 15.
const DEPTH: usize = 32;

impl Coldplug {
    pub(super) fn new(release: &str) -> Self {
        let index = Index::read(&Path::new("/lib/modules").join(release));
        Self { index, devices: "/sys/devices".into(), seen: BTreeSet::new(), loaded: BTreeSet::new() }
    }

    pub(super) fn has_modules(&self) -> bool {
        !self.index.is_empty()
    }

    /// Loads what new devices want; returns how many modules were loaded.
    pub(super) fn pass(&mut self) -> usize {
        let mut new = Vec::new();
        modaliases(&self.devices, DEPTH, &mut |alias| {
            if !self.seen.contains(&alias) {
                new.push(alias);
            }
        });
        let before = self.loaded.len();
        for alias in new {
            let wanted: Vec<String> = self.index.wanted(&alias).into_iter().map(str::to_owned).collect();
            for module in wanted {
                self.load(&module);
            }
            self.seen.insert(alias);
        }
        self.loaded.len() - before
    }

    /// Loads one module by name, dependencies first. One that refuses (no such hardware) is logged and forgotten.
    pub(super) fn load(&mut self, module: &str) {
        for file in self.index.files(module).unwrap_or_default() {
            if self.loaded.contains(&file) {
                continue;
            }
            match insert(&file) {
                Ok(()) => tracing::debug!(file = %file.display(), "loaded"),
                Err(error) => tracing::warn!(module, file = %file.display(), %error, "cannot load a module"),
            }
            // Tried once is enough: it would refuse again.
            self.loaded.insert(file);
        }
    }
}

/// The name under which the kernel calls a program to load a module that it needs itself (a cipher, a file system).
pub const MODPROBE: &str = "/sbin/modprobe";

/// Called by the kernel as `modprobe -q -- NAME` (kernel/module/kmod.c): the same tables, for one name.
pub fn modprobe(name: &str) {
    let release = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned());
    let mut coldplug = Coldplug::new(&release.unwrap_or_default());
    for module in coldplug.index.named(name) {
        coldplug.load(&module);
    }
}

/// Makes this program the kernel's modprobe for as long as the initramfs lives.
pub(super) fn answer_the_kernel() -> std::io::Result<()> {
    fs::create_dir_all("/sbin")?;
    match std::os::unix::fs::symlink("/init", MODPROBE) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn modaliases(folder: &Path, depth: usize, found: &mut dyn FnMut(String)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            modaliases(&entry.path(), depth - 1, found);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let alias = fs::read_to_string(entry.path()).unwrap_or_default();
            if !alias.trim().is_empty() {
                found(alias.trim().to_owned());
            }
        }
    }
}

/// MODULE_INIT_COMPRESSED_FILE (include/uapi/linux/module.h): the kernel unpacks, where it was built to.
const COMPRESSED: u32 = 4;

fn insert(file: &Path) -> Result<(), Errno> {
    let module =
        fs::File::open(file).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let flags = if file.extension().is_some_and(|kind| kind == "ko") {
        ModuleInitFlags::empty()
    } else {
        ModuleInitFlags::from_bits_retain(COMPRESSED)
    };
    match finit_module(&module, c"", flags) {
        // Built in, or loaded by the kernel itself.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}
