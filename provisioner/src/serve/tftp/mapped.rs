//! A file's pages, lent to the kernel: what goes out is taken straight from the page cache, without a call to read it
//! first and without a copy of ours.

use crate::boot::published::Opened;
use muster_protocol::ids::Digest;
use nix::{
    libc::c_void,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    collections::HashMap,
    fs::File,
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    slice,
    sync::{Arc, Weak},
};

#[derive(Debug)]
pub(super) struct Mapped {
    /// `None`: an empty file has no pages.
    pages: Option<(NonNull<c_void>, NonZeroUsize)>,
}

// SAFETY: the pages can only be read, and any thread may do that and unmap them.
unsafe impl Send for Mapped {}
// SAFETY: likewise; nothing changes behind a shared reference.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// The first `size` bytes of `file`.
    pub(super) fn new(file: &File, size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let Some(size) = NonZeroUsize::new(size) else { return Ok(Self { pages: None }) };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there already.
        let start = unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { pages: Some((start, size)) })
    }

    /// At most `length` bytes from `offset` on. To be handed to the kernel, not to be looked at: where a file was cut short
    /// meanwhile, looking ends the process (SIGBUS), while the kernel's own copying says EFAULT.
    pub(super) fn part(&self, offset: u64, length: usize) -> &[u8] {
        let Some((start, size)) = self.pages else { return &[] };
        // SAFETY: the mapping is as long as `self` lives, and published files are never written to.
        let all = unsafe { slice::from_raw_parts(start.as_ptr().cast::<u8>(), size.get()) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
        &all[from..all.len().min(from.saturating_add(length))]
    }
}

/// One mapping for all transfers of a file: two hundred machines that boot look at the same pages.
#[derive(Debug, Default)]
pub(super) struct Maps(HashMap<Digest, Weak<Mapped>>);

impl Maps {
    pub(super) fn of(&mut self, opened: &Opened) -> io::Result<Arc<Mapped>> {
        if let Some(known) = self.0.get(&opened.digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let mapped = Arc::new(Mapped::new(&opened.file, opened.size)?);
        self.0.retain(|_, known| known.strong_count() > 0);
        self.0.insert(opened.digest, Arc::downgrade(&mapped));
        Ok(mapped)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some((start, size)) = self.pages {
            // SAFETY: nobody else has this mapping, and no part of it outlives `self`. An error leaves it mapped.
            let _ = unsafe { munmap(start, size.get()) };
        }
    }
}
