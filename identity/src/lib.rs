//! TLS in which a P-256 certificate carries an ed25519 identity.
//!
//! Browsers and rustls want a P-256 certificate; Muster's identities are ed25519. Each side makes a self-signed
//! certificate with one extension: a statement, signed by its ed25519 key, that names cluster, role and the hash of
//! the certificate's own key. Peers are pinned to that identity, never to names or dates, so a machine without a
//! clock can connect and nothing ever expires into an outage.

/// The statement and the certificate that carries it.
mod certificate;
/// Whether this machine's own time may be vouched for.
pub mod clock;
/// Requests over one pinned connection.
pub mod http;
/// rustls configurations for both sides.
mod pinned;

pub use certificate::{BadPeer, Identity, IdentityError, Peer, PeerRole};
pub use pinned::{Expect, client_config, peer_of, server_config};
