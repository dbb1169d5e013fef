//! The data partition's ext4 with its first files, made by `mke2fs -d` in one go.
//!
//! mke2fs gets the whole disk and an offset: no partition node has to appear first, nothing is mounted, and the same
//! command works on a file. Repeating it makes the file system anew, which is what a resumed install wants.

use super::disk::{Disk, read};
use super::plan::Part;
use super::seed::{Content, Seed};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot prepare the first files below {folder}")]
    Stage {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("mke2fs could not be run, or its disk not be handed over")]
    Run(#[source] io::Error),
    #[error("mke2fs failed ({status}): {said}")]
    Failed { status: String, said: String },
    #[error("the disk failed")]
    Disk(#[source] io::Error),
    #[error("the new file system does not read back: {why}")]
    ReadBack { why: &'static str },
}

/// `mke2fs`: the program. `stage`: a folder in memory that does not exist yet; it is gone afterwards.
pub fn make(
    disk: &mut dyn Disk,
    part: &Part,
    seeds: &[Seed],
    mke2fs: &Path,
    stage: &Path,
) -> Result<(), DataError> {
    let staged =
        Stage::new(stage, seeds).map_err(|source| DataError::Stage { folder: stage.into(), source })?;
    let mut outcome = Ok(());
    disk.lend(&mut |path| {
        let output = command(mke2fs, path, part, &staged.0).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            outcome = Err(DataError::Failed { status: output.status.to_string(), said });
        }
        Ok(())
    })
    .map_err(DataError::Run)?;
    outcome?;
    // mke2fs has synced its own writes; this empties the disk's cache, whoever filled it.
    disk.flush().map_err(DataError::Disk)?;
    check(disk, part)
}

fn command(mke2fs: &Path, disk: &Path, part: &Part, stage: &Path) -> Command {
    let uuid = part.guid;
    let mut command = Command::new(mke2fs);
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", part.name])
        .args(["-U", &uuid.to_string()])
        // Fixed where mke2fs would draw lots; no discard, which some disks take minutes for.
        .args(["-E", &format!("offset={},hash_seed={uuid},nodiscard,root_owner=0:0", part.bytes.start)])
        .arg("-d")
        .arg(stage)
        .arg(disk)
        .arg(format!("{}k", (part.bytes.end - part.bytes.start) / 1024))
        .stdin(Stdio::null());
    command
}

/// The superblock as the disk gives it back (ext4 on-disk format: at 1024, little-endian): ours, and clean.
pub fn check(disk: &mut dyn Disk, part: &Part) -> Result<(), DataError> {
    let block = read(disk, part.bytes.start, 4096).map_err(DataError::Disk)?;
    let superblock = &block[1024..2048];
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        return Err(DataError::ReadBack { why: "it has no ext4 superblock" });
    }
    if superblock[0x68..0x78] != part.guid.big_endian() {
        return Err(DataError::ReadBack { why: "its UUID is not the planned one" });
    }
    // Bit 0 of the state: cleanly unmounted.
    if superblock[0x3a] & 1 == 0 {
        return Err(DataError::ReadBack { why: "it is not clean" });
    }
    Ok(())
}

/// The seeds as files in memory, gone when dropped.
struct Stage(PathBuf);

impl Stage {
    fn new(folder: &Path, seeds: &[Seed]) -> io::Result<Self> {
        // What an earlier attempt in this boot has left, if anything.
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        DirBuilder::new().mode(0o700).create(folder)?;
        let stage = Self(folder.into());
        for seed in seeds {
            let path = folder.join(seed.path);
            match &seed.what {
                Content::Folder => DirBuilder::new().mode(0o700).create(&path)?,
                Content::File(bytes) => {
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&path)?
                        .write_all(bytes)?;
                }
            }
            fs::set_permissions(&path, Permissions::from_mode(seed.mode))?;
        }
        // The root of the file system gets this folder's mode.
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It lies in memory and this machine reboots next; nothing depends on its going.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}
