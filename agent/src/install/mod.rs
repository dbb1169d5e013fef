//! Install, exactly once (design §7): from a held order to a disk that boots, by steps that can all be repeated.
//!
//! Nothing here takes raw bytes for permission: an order is a `Verified<Order>`, a manifest a `Verified<Manifest>`.
//! Nothing is written before the order is held and its disk found, and the first thing written is the marker.
//! The files are named for the steps, in the order in which they happen; [`run`] is the table of contents.

/// Steps by name, and why one of them stopped.
pub mod failed;
/// The sequence, and what its caller must provide.
pub mod run;

/// What the kernel uses a disk for right now.
pub mod busy;
/// `choose`: the one disk that is meant, and whether it may be written.
pub mod choose;
/// `claim`: the order is ours, and here is what the node is to be.
pub mod claim;
/// The magic bytes by which file systems, volume managers and RAIDs are told.
pub mod signatures;
/// What is on a disk: emptiness test, evidence, words.
pub mod survey;

/// `partition`: the GPT, both copies.
pub mod gpt;
/// The marker's two copies on a disk.
pub mod marker;
/// Where everything goes, computed from sizes and the order alone.
pub mod plan;
/// `wipe`: no stale signature may outlive the old contents.
pub mod wipe;

/// Bytes by digest from the provisioner.
pub mod fetch;
/// Several threads, results in order, memory bounded.
mod ordered;
/// `verify`: what the disk gives back.
pub mod verify;
/// `write`: the node image into its slot, frame by frame.
pub mod write;

/// `esp`: loader and UKI on a FAT32 file system.
pub mod esp;
/// FAT32 with a fixed set of files, as bytes and places.
pub mod fat;

/// The data partition's ext4, by mke2fs.
pub mod mkdata;
/// `seed`: what the data partition holds from the start.
pub mod seed;

/// `bootentry`: the disk first in the firmware's boot order.
pub mod bootentry;
/// The firmware's variables, by efivarfs.
pub mod efivars;

/// A real disk.
pub mod blockdev;
/// What is written to: a disk, or a double of one.
pub mod disk;
/// The real machine around an install.
pub mod machine;
