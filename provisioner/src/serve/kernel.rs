//! A system call that has no safe wrapper: which capabilities we keep.

use std::io;

/// linux/capability.h
const VERSION_3: u32 = 0x2008_0522;
const CAP_NET_BIND_SERVICE: u32 = 10;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// This thread, and every one it starts later, keeps the right to bind low ports and no other.
pub fn keep_only_low_ports() -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let keep = 1 << CAP_NET_BIND_SERVICE;
    let data = [Data { effective: keep, permitted: keep, inheritable: 0 }, Data::default()];
    // SAFETY: capset(2) reads one header and, in version 3, two data structs; both live until it returns. libc has
    // no wrapper for it.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
