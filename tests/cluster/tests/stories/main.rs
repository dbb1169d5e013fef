//! How three servers become one cluster and stay one: `muster serve`, `muster-agent node`, the gate and the unit files as
//! shipped, real etcd; k3s is the stand-in. Machines are network namespaces on one bridge.
//!
//! No story is helped by a hand unless it says so. They run side by side, each on a LAN of its own.

#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

/// The provisioner and its operator.
mod home;
/// All of it together.
mod lab;
/// Namespaces.
mod lan;
/// One machine, on and off.
mod machine;
/// The programs.
mod parts;
/// A question to the whole LAN.
mod question;
/// etcd itself, looked at all the time.
mod watch;

/// An old copy of the store, put back while a server joins.
mod copies;
/// Joins that are cut short.
mod joins;
/// Made by itself, gone dark, damaged, left alone by its provisioner, asked to be made again.
mod made;
