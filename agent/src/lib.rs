//! The agent of one machine: PID 1 of the boot image, installer, and the service of an installed node.

/// What this machine is made of.
pub mod detect;
