//! What the two sides of Muster say to each other: types, codecs and verdicts, without I/O.
//!
//! The crate is `no_std` + `alloc`; time, randomness and keys are arguments. Anything that comes from outside
//! becomes usable through [`signed::Signed::verify`] alone. Wire types are postcard, one type per version,
//! with golden bytes in `tests/golden`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod hex;
/// Names, numbers and digests, parsed once.
pub mod ids;
/// How every statement is written down: version byte, body, no trailing bytes.
pub mod wire;

/// What kind of machine that is.
pub mod class;
/// What detection found on a machine.
pub mod inventory;

/// Node, operator and cluster keys; fingerprints.
pub mod keys;
/// Secrets encrypted to one node key.
pub mod sealed;
/// Signed statements and the one way to believe them.
pub mod signed;

/// The provisioner's call on the LAN.
pub mod beacon;
/// DHCP packets, for the boot answers and for the agent's own client.
pub mod dhcp;
/// What servers see of etcd.
pub mod etcd;
/// Permission to start k3s once; commands to a server's agent.
pub mod grant;
/// The exchange that must be understood for ever.
pub mod hello;
/// The table of a node image's frames.
pub mod image;
/// Which of k3s's keys nobody may pass through.
pub mod k3s_keys;
/// Questions to agents over UDP.
pub mod lan;
/// What one node is to be.
pub mod manifest;
/// What the disk remembers.
pub mod marker;
/// Permission to write one disk.
pub mod order;
/// When a node may be called ready.
pub mod ready;
/// Who belongs to the cluster.
pub mod roster;
/// How a node is.
pub mod status;
/// The versioned exchange of a running agent.
pub mod sync;
