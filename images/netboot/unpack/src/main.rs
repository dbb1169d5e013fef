//! An EFI program around the arm64 kernel: unpacks it into memory and enters it as if firmware had loaded it.
//!
//! Debian builds its arm64 kernel without EFI_ZBOOT, as a plain Image of 37 MB; this does what EFI_ZBOOT does
//! (linux/drivers/firmware/efi/libstub/zboot.c) for an Image that exists already. The kernel's own stub does the rest:
//! it takes command line and initrd from where systemd-stub left them. No LoadImage: under Secure Boot firmware would
//! ask for a signature again, and these bytes were covered by the one of the whole UKI.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), no_main)]

/// LZ4 blocks, with bounds checked.
mod lz4;

/// Everything that touches firmware, memory and the processor.
#[cfg(not(test))]
mod firmware;
