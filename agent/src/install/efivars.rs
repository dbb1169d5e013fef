//! The firmware's variables, by efivarfs: one file each, four bytes of attributes in front.
//!
//! The kernel makes most files immutable as soon as they exist, so that `rm -rf` cannot break a firmware; who means
//! it clears the flag first. A variable is written by one write: the kernel calls the firmware once for each.
//! Every mount shows all variables to everybody (0644): one that holds a secret is hidden after each boot.

use super::bootentry::Variables;
use std::ffi::c_long;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// EFI_GLOBAL_VARIABLE
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS
const ATTRIBUTES: u32 = 7;
/// FS_IMMUTABLE_FL
const IMMUTABLE: c_long = 0x10;
/// For root alone; a boot option may be read by nobody else either.
const SECRET: u32 = 0o600;
/// No variable of ours is longer; firmware has kilobytes in all.
const LONGEST: u64 = 64 << 10;

/// Variables of one vendor GUID below `/sys/firmware/efi/efivars` of a root.
pub struct Efivars {
    folder: PathBuf,
    vendor: String,
}

impl Efivars {
    /// `None` where there is no such file system: no UEFI, or it is not mounted.
    pub fn at(root: &Path, vendor: &str) -> Option<Self> {
        let folder = root.join("sys/firmware/efi/efivars");
        let any = fs::read_dir(&folder).ok()?.next().is_some();
        any.then(|| Self { folder, vendor: vendor.into() })
    }

    /// Only root may read this variable, until efivarfs is mounted anew. None of that name is fine.
    pub fn hide(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(());
        }
        let was = make_mutable(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(SECRET))?;
        if let Some(flags) = was {
            set_flags_of(&File::open(&path)?, flags)?;
        }
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        let stuck = io::Error::other(format!("its mode is still {mode:o}"));
        if mode == SECRET { Ok(()) } else { Err(stuck) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{}", self.vendor))
    }
}

impl Variables for Efivars {
    fn names(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            names.extend(name.strip_suffix(&format!("-{}", self.vendor)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > LONGEST => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("variable {name} is too long"),
                ));
            }
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let bytes = fs::read(&path)?;
        Ok(bytes.get(4..).map(<[u8]>::to_vec))
    }

    fn write(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        if path.exists() {
            make_mutable(&path)?;
        }
        let mut bytes = ATTRIBUTES.to_le_bytes().to_vec();
        bytes.extend_from_slice(value);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(SECRET);
        options.open(&path)?.write_all(&bytes)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(());
        }
        make_mutable(&path)?;
        fs::remove_file(&path)
    }
}

nix::ioctl_read!(flags_of, b'f', 1, c_long);
nix::ioctl_write_ptr!(set_flags, b'f', 2, c_long);

/// FS_IOC_GETFLAGS and FS_IOC_SETFLAGS. File systems without such flags (a folder in a test) have none to clear. The
/// flags that it had, if the one was among them.
fn make_mutable(path: &Path) -> io::Result<Option<c_long>> {
    let file = File::open(path)?;
    let mut flags: c_long = 0;
    // SAFETY: the descriptor is open for the whole call, and `flags` is a long, the type these two requests are
    // defined with (linux/fs.h; kernels write 32 of its bits). No safe wrapper exists in our dependencies.
    let have = unsafe { flags_of(file.as_raw_fd(), &raw mut flags) };
    if have.is_err() || flags & IMMUTABLE == 0 {
        return Ok(None);
    }
    set_flags_of(&file, flags & !IMMUTABLE)?;
    Ok(Some(flags))
}

fn set_flags_of(file: &File, flags: c_long) -> io::Result<()> {
    // SAFETY: as in `make_mutable`; the kernel only reads `flags`.
    unsafe { set_flags(file.as_raw_fd(), &raw const flags) }.map_err(io::Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_variable_is_for_root_alone_and_none_is_fine() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/firmware/efi/efivars");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("BootOrder-x"), [0; 6]).unwrap();
        let mut variables = Efivars::at(root.path(), "vendor").unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(folder.join(format!("{name}-vendor"))).unwrap();
            metadata.permissions().mode() & 0o777
        };
        variables.hide("Key").unwrap();
        variables.write("Key", &[1; 32]).unwrap();
        assert_eq!(mode("Key"), 0o600, "made so");
        fs::set_permissions(folder.join("Key-vendor"), fs::Permissions::from_mode(0o644)).unwrap();
        variables.hide("Key").unwrap();
        assert_eq!(mode("Key"), 0o600);
        assert_eq!(variables.read("Key").unwrap().unwrap(), [1; 32]);
    }
}
