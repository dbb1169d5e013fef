//! Questions from the LAN on port 7481: short ones over UDP, full status and inventory over TLS.
//!
//! Operators of the roster are answered, also when provisioner and API server are down; nobody else learns anything.

/// Whether a question is answered, and with what. Pure.
pub mod answer;
/// Prometheus text.
pub mod metrics;
/// Full answers over TLS.
pub mod tls;
/// The socket for short questions.
pub mod udp;

use muster_protocol::ids::ClusterId;
use muster_protocol::inventory::Inventory;
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Roster;
use muster_protocol::signed::Trust;
use muster_protocol::status::Status;
use std::sync::{Mutex, PoisonError};

/// What the LAN is told: written by the service after each round, read by both listeners.
pub struct Board {
    pub trust: Trust,
    pub key: SecretKey,
    pub inventory: Inventory,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    status: Option<Status>,
    roster: Option<Roster>,
}

impl Board {
    pub fn new(trust: Trust, key: SecretKey, inventory: Inventory) -> Self {
        Self { trust, key, inventory, inner: Mutex::default() }
    }

    pub fn cluster(&self) -> ClusterId {
        self.trust.cluster
    }

    pub fn post(&self, status: Status) {
        self.with(|inner| inner.status = Some(status));
    }

    pub fn trust_roster(&self, roster: Roster) {
        self.with(|inner| inner.roster = Some(roster));
    }

    pub fn status(&self) -> Option<Status> {
        self.with(|inner| inner.status.clone())
    }

    pub fn roster(&self) -> Option<Roster> {
        self.with(|inner| inner.roster.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Whole values are exchanged, so a panic elsewhere left nothing half done.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
