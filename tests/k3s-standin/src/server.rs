//! `k3s server`, in the order in which one start goes through it.

pub mod bootstrap; // CAs and tokens: made, found, or fetched from another server
pub mod controllers; // quorum watch, node life cycle, member removal
pub mod datastore; // etcd or the file that stands for SQLite; what happens when etcd ends
pub mod joining; // the join loop
pub mod readiness; // waiting to be a voter, then READY=1
pub mod reset;
pub mod run; // the start itself, to its end
pub mod state; // what the tasks of one server share
pub mod supervisor; // port 6443 // --cluster-reset
