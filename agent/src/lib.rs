//! muster-agent: PID 1 of the netbooted image, installer and node service.

/// The installed node's service and the gate before k3s.
pub mod node;
/// What a node keeps on its disk.
pub mod state;
