//! The real etcd: a child process, spoken to through its JSON gateway on loopback.

pub mod child; // starting it so that it dies with us, reading its log
pub mod config; // the file it is started with
pub mod gateway; // POST https://127.0.0.1:2382/v3/…
pub mod learners; // the leader's tick: promote, evict
pub mod listed; // members as /db/info and the gateway show them
pub mod locate; // where the binary is, and its version
pub mod metrics; // etcd's own plain port, and what stands in for it when etcd is gone
