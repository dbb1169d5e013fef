//! Random histories of init and join: the shipped decisions against the stand-in's own model of k3s.
//!
//! What is real here: `muster::cluster::membership::decide` and `muster_agent::node::gate::decide`, word for word.
//! What is modelled: k3s and etcd (`k3s-model`, which the stand-in runs on too), systemd's restart after five seconds, the
//! network between agents and provisioner, disks and their loss. One seed is one history.

/// Restarts, crashes, cuts, losses: what may befall a history.
pub mod faults;
/// The whole of it: time passes, faults happen, invariants are looked at.
pub mod history;
/// What must never be seen.
pub mod invariants;
/// One seed's luck.
pub mod luck;
/// One machine: disk, gate, service manager, reports.
pub mod node;
/// The provisioner's durable and volatile halves.
pub mod provisioner;
