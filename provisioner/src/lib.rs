//! The Muster provisioner: what makes machines boot, recognises them, and tells each what it is to be.

/// What the operator wrote down: `cluster.toml`.
pub mod config;
/// What must be remembered.
pub mod store;

/// Who gets which boot answer.
pub mod boot;
/// Pure decisions about machines and the cluster.
pub mod cluster;
/// The one owner of store, configuration and keys: every question ends here.
pub mod core;

/// Boot images and node images.
pub mod image;

/// The edges: sockets, and nothing that is worth deciding.
pub mod serve;

/// The command line.
pub mod cli;
