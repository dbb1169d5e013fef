//! The agent: PID 1 of the netbooted image, installer and node service.

/// Install, exactly once: from a held order to a disk that boots.
pub mod install;
