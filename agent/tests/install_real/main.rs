//! The real edges: block devices, HTTP, mke2fs; and strangers' tools that must accept what was made.
//!
//! Files need no rights; loop devices (512 and 4096 byte blocks) need root and are skipped, by name, without it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../install_support/mod.rs"]
mod install_support;

/// What other people's programs say about a disk of ours.
mod judge;
/// Other people's programs, loop devices among them.
mod tools;

/// Each edge by itself.
mod edges;
/// Whole installs.
mod whole;
