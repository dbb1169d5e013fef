//! The base parts of a boot image as `images/netboot/build.sh` leaves them: a folder with a manifest.
//!
//! Every file is compared with the manifest's digest, so that a half-copied release is refused here and not by a
//! machine's firmware.

use muster_protocol::ids::{Arch, Digest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kernel, stub, loader and base initramfs of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub arch: Arch,
    /// As `uname -r` says it; slots with the same modules fit.
    pub kernel_release: String,
    pub linux: Vec<u8>,
    /// Compressed archive, without the agent.
    pub initrd: Vec<u8>,
    pub stub: Vec<u8>,
    /// systemd-boot, for the ESP.
    pub loader: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("cannot read `{}`\nhint: images/netboot/build.sh makes the base parts of a boot image", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not a manifest of base parts", path.display())]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error("the manifest in `{}` does not list `{name}`", folder.display())]
    Unlisted { folder: PathBuf, name: &'static str },
    #[error("`{}` has the digest {have}, its manifest says {want}\nhint: copy or build the folder again", path.display())]
    Digest { path: PathBuf, have: Digest, want: Digest },
}

#[derive(Deserialize)]
struct Manifest {
    arch: Arch,
    kernel_release: String,
    files: BTreeMap<String, Listed>,
}

#[derive(Deserialize)]
struct Listed {
    sha256: Digest,
}

pub fn read(folder: &Path) -> Result<Base, BaseError> {
    let path = folder.join("manifest.json");
    let text = std::fs::read(&path).map_err(|source| BaseError::Read { path: path.clone(), source })?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|source| BaseError::Manifest { path, source })?;
    let file = |name: &'static str| checked(folder, name, &manifest);
    Ok(Base {
        linux: file("linux")?,
        initrd: file("initrd.base.zst")?,
        stub: file("stub.efi")?,
        loader: file("systemd-boot.efi")?,
        arch: manifest.arch,
        kernel_release: manifest.kernel_release,
    })
}

fn checked(folder: &Path, name: &'static str, manifest: &Manifest) -> Result<Vec<u8>, BaseError> {
    let Some(listed) = manifest.files.get(name) else {
        return Err(BaseError::Unlisted { folder: folder.to_owned(), name });
    };
    let path = folder.join(name);
    let content = std::fs::read(&path).map_err(|source| BaseError::Read { path: path.clone(), source })?;
    match Digest::of(&content) {
        have if have == listed.sha256 => Ok(content),
        have => Err(BaseError::Digest { path, have, want: listed.sha256 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder() -> TempDir {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let mut files = Vec::new();
        for name in ["linux", "initrd.base.zst", "stub.efi", "systemd-boot.efi"] {
            std::fs::write(folder.join(name), name).unwrap();
            files.push(format!(r#""{name}": {{"size": 1, "sha256": "{}"}}"#, Digest::of(name.as_bytes())));
        }
        let manifest = format!(
            r#"{{"arch": "aarch64", "kernel_release": "6.12.1-arm64", "packages": {{}}, "files": {{{}}}}}"#,
            files.join(",")
        );
        std::fs::write(folder.join("manifest.json"), manifest).unwrap();
        temporary
    }

    #[test]
    fn a_whole_folder_is_read() {
        let folder = folder();
        let base = read(folder.path()).unwrap();
        assert_eq!((base.arch, base.kernel_release.as_str()), (Arch::Aarch64, "6.12.1-arm64"));
        assert_eq!(base.loader, b"systemd-boot.efi");
    }

    #[test]
    fn a_changed_file_is_refused() {
        let folder = folder();
        std::fs::write(folder.path().join("linux"), "linu").unwrap();
        assert!(
            matches!(read(folder.path()), Err(BaseError::Digest { path, .. }) if path.ends_with("linux"))
        );
    }

    #[test]
    fn a_missing_manifest_says_how_to_make_one() {
        let refused = read(Path::new("/nonexistent")).unwrap_err();
        assert!(refused.to_string().contains("images/netboot/build.sh"), "{refused}");
    }
}
