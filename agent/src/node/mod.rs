//! The installed node's service (`muster-agent node`) and the gate before k3s (`muster-agent k3s-gate`).
//!
//! Nothing in here stops because the provisioner is away: the last manifest stays in force, a member starts k3s by
//! itself, and the LAN is answered. Only what is new needs the provisioner.

/// Files by digest from the provisioner.
pub mod fetch;
/// Folders by version, complete or not there.
pub mod versions;

/// Kata in place, before k3s first starts.
pub mod kata;
/// k3s's files in place.
pub mod place;

/// May k3s start, and as what?
pub mod gate;
/// k3s's tokens, sealed.
pub mod tokens;
/// Starting and watching k3s's unit.
pub mod units;

/// Signed commands, each run once.
pub mod commands;
/// What k3s and etcd answer.
pub mod probe;

#[cfg(test)]
pub(crate) mod testing;
