//! The Muster provisioner.

/// Who gets which boot answer.
pub mod boot;
/// The edges: sockets, and what runs behind them.
pub mod serve;
