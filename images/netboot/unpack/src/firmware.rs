//! UEFI, as much of it as is needed (UEFI 2.10: 4.3, 4.4, 7.2, 9.1), and the jump into the kernel.

use core::ffi::c_void;
use core::panic::PanicInfo;
use core::ptr;

/// The kernel's Image, packed by `lz4 -l`.
static PACKED: &[u8] = include_bytes!(env!("KERNEL_PACKED"));
/// Bytes of the Image's file.
const RAW: usize = number(env!("KERNEL_RAW_BYTES"));
/// Bytes it takes in memory: its PE header's SizeOfImage.
const IMAGE: usize = number(env!("KERNEL_IMAGE_BYTES"));

type Status = usize;
const LOAD_ERROR: Status = 1 | (1 << 63);
const OUT_OF_RESOURCES: Status = 9 | (1 << 63);

#[repr(C)]
struct Guid(u32, u16, u16, [u8; 8]);
const LOADED_IMAGE: Guid =
    Guid(0x5b1b_31a1, 0x9562, 0x11d2, [0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b]);
const MEMORY_ATTRIBUTE: Guid =
    Guid(0xf456_0cf6, 0x40ec, 0x4b4a, [0xa1, 0x92, 0xbf, 0x1d, 0x57, 0xd0, 0xb1, 0x89]);

#[repr(C)]
struct SystemTable {
    header: [u64; 3],
    vendor: *const u16,
    revision: u64,
    console_in: [usize; 2],
    console_out_handle: *mut c_void,
    console_out: *mut TextOutput,
    standard_error: [usize; 2],
    runtime_services: *mut c_void,
    boot_services: *mut BootServices,
}

#[repr(C)]
struct TextOutput {
    reset: usize,
    output_string: unsafe extern "efiapi" fn(*mut TextOutput, *const u16) -> Status,
}

#[repr(C)]
struct BootServices {
    header: [u64; 3],
    task_priority: [usize; 2],
    allocate_pages: unsafe extern "efiapi" fn(u32, u32, usize, *mut u64) -> Status,
    until_handle_protocol: [usize; 13],
    handle_protocol: unsafe extern "efiapi" fn(*mut c_void, *const Guid, *mut *mut c_void) -> Status,
    until_locate_protocol: [usize; 20],
    locate_protocol: unsafe extern "efiapi" fn(*const Guid, *mut c_void, *mut *mut c_void) -> Status,
}

#[repr(C)]
struct LoadedImage {
    until_image_base: [u64; 8],
    image_base: *mut c_void,
    image_size: u64,
}

#[repr(C)]
struct MemoryAttribute {
    get: usize,
    set: usize,
    clear: unsafe extern "efiapi" fn(*mut MemoryAttribute, u64, u64, u64) -> Status,
}

const ANY_PAGES: u32 = 0;
const LOADER_CODE: u32 = 1;
const EXECUTE_PROTECT: u64 = 0x4000;
const READ_ONLY: u64 = 0x2_0000;
/// The kernel moves itself when it does not lie at a multiple of this.
const ALIGNMENT: usize = 2 << 20;
const PAGE: usize = 4096;

type Entry = unsafe extern "efiapi" fn(*mut c_void, *mut SystemTable) -> Status;

#[unsafe(no_mangle)]
extern "efiapi" fn efi_main(handle: *mut c_void, system: *mut SystemTable) -> Status {
    // SAFETY: firmware calls an EFI program with its handle and a valid system table (UEFI 4.1).
    unsafe {
        match prepare(handle, system) {
            Ok(entry) => entry(handle, system),
            Err((status, why)) => {
                let console = (*system).console_out;
                let mut text = [0_u16; 80];
                for (to, from) in text.iter_mut().zip(why.bytes().take(79)) {
                    *to = u16::from(from);
                }
                ((*console).output_string)(console, text.as_ptr());
                status
            }
        }
    }
}

/// The kernel in memory, and firmware's record of this program turned to it.
///
/// # Safety
/// `handle` and `system` are what firmware gave to the entry point.
unsafe fn prepare(handle: *mut c_void, system: *mut SystemTable) -> Result<Entry, (Status, &'static str)> {
    // SAFETY: the tables are valid until ExitBootServices, which only the kernel calls. The pages are ours from
    // AllocatePages on, IMAGE bytes and more; writing zeros first makes the slice's bytes initialised.
    unsafe {
        let services = (*system).boot_services;
        let mut at = 0_u64;
        let pages = (IMAGE + ALIGNMENT).div_ceil(PAGE);
        if ((*services).allocate_pages)(ANY_PAGES, LOADER_CODE, pages, &raw mut at) != 0 {
            return Err((OUT_OF_RESOURCES, "muster: no memory for the kernel\r\n"));
        }
        let base = (at as usize).next_multiple_of(ALIGNMENT) as *mut u8;
        ptr::write_bytes(base, 0, IMAGE);
        let image = core::slice::from_raw_parts_mut(base, IMAGE);
        let damaged = (LOAD_ERROR, "muster: the packed kernel is damaged\r\n");
        super::lz4::unpack(PACKED, image.get_mut(..RAW).ok_or(damaged)?).ok_or(damaged)?;
        let entry = entry_point(image).ok_or(damaged)?;

        let mut protocol: *mut c_void = ptr::null_mut();
        // Newer firmware lets no page be written and run at once unless asked; older has no such protocol.
        if ((*services).locate_protocol)(&MEMORY_ATTRIBUTE, ptr::null_mut(), &raw mut protocol) == 0 {
            let protocol = protocol.cast::<MemoryAttribute>();
            let length = IMAGE.next_multiple_of(PAGE) as u64;
            ((*protocol).clear)(protocol, base as u64, length, EXECUTE_PROTECT | READ_ONLY);
        }
        synchronise(base as usize, IMAGE);

        if ((*services).handle_protocol)(handle, &LOADED_IMAGE, &raw mut protocol) != 0 {
            return Err((LOAD_ERROR, "muster: firmware does not know this program\r\n"));
        }
        // The kernel's stub looks here for where it lies, and for its command line, which stays.
        let loaded = protocol.cast::<LoadedImage>();
        (*loaded).image_base = base.cast();
        (*loaded).image_size = IMAGE as u64;
        Ok(core::mem::transmute::<*mut u8, Entry>(base.add(entry)))
    }
}

/// AddressOfEntryPoint of a PE32+ file.
fn entry_point(image: &[u8]) -> Option<usize> {
    let word = |at: usize| {
        image.get(at..at + 4).and_then(<[u8]>::first_chunk).map(|b| u32::from_le_bytes(*b) as usize)
    };
    let header = word(0x3c)?;
    (image.get(header..header + 4)? == b"PE\0\0").then_some(())?;
    word(header + 24 + 16).filter(|entry| *entry < image.len())
}

/// What was written as data is about to be run: clean it out of the data caches, drop stale instructions.
fn synchronise(from: usize, length: usize) {
    let line_info: usize;
    // SAFETY: reads a register; then cache maintenance by address on memory of ours, and barriers.
    unsafe {
        core::arch::asm!("mrs {}, ctr_el0", out(reg) line_info, options(nomem, nostack));
        let line = 4 << ((line_info >> 16) & 15);
        let mut at = from & !(line - 1);
        while at < from + length {
            core::arch::asm!("dc civac, {}", in(reg) at, options(nostack));
            at += line;
        }
        core::arch::asm!("dsb sy", "ic ialluis", "dsb sy", "isb", options(nostack));
    }
}

/// A decimal number known when this is compiled.
const fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut value = 0;
    let mut at = 0;
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0') as usize;
        at += 1;
    }
    value
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
