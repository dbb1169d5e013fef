//! A real disk: opened for us alone, written past the page cache, read back from the medium.
//!
//! O_EXCL on a block device fails while anything else (a mount, md, dm, ZFS, swap) holds it or a partition of it: the
//! kernel's own guard behind ours. O_DIRECT makes `verify` read the medium and keeps the install out of memory.

use super::disk::Disk;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest single transfer, and the size of the aligned buffer it goes through.
const TRANSFER: usize = 4 << 20;
/// O_DIRECT wants memory aligned to the logical block; a page satisfies all.
const ALIGN: usize = 4096;

pub struct BlockDevice {
    path: PathBuf,
    file: Option<File>,
    /// Device number (or, for a file, inode) and size: what must be the same after lending.
    identity: (u64, u64),
    block_bytes: u32,
    direct: bool,
    writable: bool,
    buffer: Vec<u8>,
}

impl BlockDevice {
    /// To be written, exclusively. `block_bytes` is the logical block size as sysfs gives it.
    pub fn exclusive(path: &Path, block_bytes: u32) -> io::Result<Self> {
        Self::open(path, block_bytes, true)
    }

    /// To be looked at, whoever uses it.
    pub fn read_only(path: &Path, block_bytes: u32) -> io::Result<Self> {
        Self::open(path, block_bytes, false)
    }

    fn open(path: &Path, block_bytes: u32, writable: bool) -> io::Result<Self> {
        let (file, direct) = open(path, writable)?;
        let identity = identity(&file)?;
        let buffer = vec![0; TRANSFER + ALIGN];
        Ok(Self { path: path.into(), file: Some(file), identity, block_bytes, direct, writable, buffer })
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("the disk was lent and did not come back"))
    }

    /// Where in the buffer an aligned stretch of [`TRANSFER`] bytes begins.
    fn aligned(&self) -> usize {
        self.buffer.as_ptr().align_offset(ALIGN).min(ALIGN)
    }
}

impl Disk for BlockDevice {
    fn size(&self) -> u64 {
        self.identity.1
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.direct {
            // Without O_DIRECT (tmpfs): at least drop what the cache would answer with.
            nix::fcntl::posix_fadvise(
                self.file()?,
                0,
                0,
                nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            )?;
        }
        let start = self.aligned();
        let mut at = offset;
        for piece in into.chunks_mut(TRANSFER) {
            // Tails shorter than a block are read as whole blocks.
            let length = piece.len().next_multiple_of(self.block_bytes.max(512) as usize);
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let buffer = self.buffer.get_mut(start..start + length).ok_or(io::ErrorKind::InvalidInput)?;
            file.read_exact_at(buffer, at)?;
            piece.copy_from_slice(&buffer[..piece.len()]);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = self.aligned();
        let mut at = offset;
        for piece in bytes.chunks(TRANSFER) {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let buffer =
                self.buffer.get_mut(start..start + piece.len()).ok_or(io::ErrorKind::InvalidInput)?;
            buffer.copy_from_slice(piece);
            file.write_all_at(buffer, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.sync_all()
    }

    fn lend(&mut self, work: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        self.flush()?;
        self.file = None;
        let worked = work(&self.path);
        let (file, direct) = open(&self.path, self.writable)?;
        if identity(&file)? != self.identity {
            return Err(io::Error::other(format!("{} is another disk now", self.path.display())));
        }
        self.file = Some(file);
        self.direct = direct;
        worked
    }
}

fn open(path: &Path, writable: bool) -> io::Result<(File, bool)> {
    let with = |flags| {
        let exclusive = if writable { libc::O_EXCL } else { 0 };
        OpenOptions::new().read(true).write(writable).custom_flags(flags | exclusive).open(path)
    };
    match with(libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(0).map(|file| (file, false)),
        Err(error) => Err(error),
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    use std::io::Seek;
    let metadata = file.metadata()?;
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.ino() };
    let mut file = file;
    Ok((number, file.seek(io::SeekFrom::End(0))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{NamedTempFile, TempPath};

    fn file() -> TempPath {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        file.into_temp_path()
    }

    #[test]
    fn what_is_written_is_read_back_across_transfers() {
        let path = file();
        let mut disk = BlockDevice::exclusive(&path, 512).unwrap();
        let bytes: Vec<u8> = (0..5 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        disk.write_at(4096, &bytes).unwrap();
        disk.flush().unwrap();
        let mut back = vec![0; bytes.len()];
        disk.read_at(4096, &mut back).unwrap();
        assert!(back == bytes);
        assert_eq!(disk.size(), 16 << 20);
    }

    #[test]
    fn a_disk_that_is_exchanged_while_it_is_lent_is_refused() {
        let path = file();
        let mut disk = BlockDevice::exclusive(&path, 512).unwrap();
        let other = file();
        let error = disk.lend(&mut |path| std::fs::rename(&other, path)).unwrap_err();
        assert!(error.to_string().contains("another disk"), "{error}");
        assert!(disk.write_at(0, &[0; 512]).is_err());
    }

    #[test]
    fn a_disk_to_be_looked_at_cannot_be_written() {
        let path = file();
        let mut disk = BlockDevice::read_only(&path, 512).unwrap();
        assert!(disk.write_at(0, &[1; 512]).is_err());
    }
}
