//! The agent of one machine: PID 1 of the boot image, installer, and the service of an installed node.
//!
//! A machine lives through it in this order: [`init`] is what the kernel starts; it loads modules, asks [`detect`]
//! what the machine is, brings a port of [`net`] up and [`talk`]s to the provisioner.

/// PID 1 of the boot image: from the kernel to the answer.
pub mod init;

/// What this machine is made of.
pub mod detect;

/// Install, exactly once: from a held order to a disk that boots.
pub mod install;

/// Setting the clock.
pub mod clock;
/// Files that are whole whenever the power goes.
pub mod durable;
/// The installed node's service and the gate before k3s.
pub mod node;
/// What a node keeps on its disk.
pub mod state;

/// One link, one address, the provisioner found.
pub mod net;
/// Four questions over pinned TLS.
pub mod talk;

/// Consoles and the block a person reads.
pub mod console;
/// Where log lines go.
pub mod log;

/// The command line.
pub mod cli;
