//! Who gets which boot answer. Pure: packets, tables and the time come in as arguments; `serve` holds the sockets.

/// The answer to one packet.
pub mod answer;
/// What the servers tell the timeline.
pub mod event;
/// Which firmware asks, and for what.
pub mod firmware;
/// The files that are served, by name.
pub mod published;
/// Machines that netboot and are not declared.
pub mod seen;
/// Declared machines and what they boot.
pub mod table;
