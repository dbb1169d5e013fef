//! The medium as a sparse file: zeros are holes, so an empty 32 GiB disk takes no space.

use super::Medium;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) fn open(path: &Path, size: u64) -> Result<File> {
    let what = || format!("disk file {}", path.display());
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).with_context(what)?;
    let have = file.metadata().with_context(what)?.len();
    ensure!(have == 0 || have == size, "disk file {} has {have} bytes, wanted {size}", path.display());
    file.set_len(size).with_context(what)?;
    Ok(file)
}

impl Medium for File {
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, into, at)
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, data, at)
    }

    fn zero_at(&mut self, at: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&*self, flags, at as i64, length as i64).map_err(io::Error::from)
    }
}
