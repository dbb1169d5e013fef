//! Making the two kinds of image: boot images (UKIs) from released base parts, and node images in frames.
//!
//! All of it is a function of its inputs: the same parts give the same bytes on any machine.

/// The released base parts of a boot image, read and checked.
pub mod base;
/// Boot image = base parts + agent + the cluster's trust.
pub mod compose;
/// Archives that the kernel unpacks into its first file system.
pub mod cpio;
/// Node image: a root file system in independent, verified frames.
pub mod pack;
/// The EFI program format, read and extended.
pub mod pe;
/// PE sections appended to systemd's stub.
pub mod uki;
