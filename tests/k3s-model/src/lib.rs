//! What k3s and its embedded etcd do, as a pure model: no I/O, no clock (time is a `u64` of milliseconds), luck from a seed.
//!
//! The membership simulation and the stand-in lean on the same crate, so that a trap found in one exists in both. Facts come from
//! runs of a real k3s (Kubernetes v1.36.3, etcd 3.6.14); what was only read in its source says so beside the code.
//! Not modelled: the contents of the key-value store, terms and logs beyond "in step with the leader", re-used CA files.
#![forbid(unsafe_code)]
#![no_std]
extern crate alloc;

// Read in the order in which a server lives through it.
pub mod cluster; // one etcd cluster: members, learners, gates, removal
pub mod config; // what is in config.yaml that decides about membership
pub mod ids; // member and cluster ids, derived as etcd derives them
pub mod join; // one look of the join loop at a member list
pub mod names; // member names and their node names
pub mod numbers; // every period and limit, real and scaled
pub mod start; // the join table: disk facts and config -> what this start does
pub mod texts;
pub mod token; // K10 tokens and what they pin
pub mod world; // servers with disks and processes, partitions, time // what k3s prints, word for word
