//! The Muster provisioner, as a library for its own binary and tests.

/// Pure decisions about machines and the cluster.
pub mod cluster;
