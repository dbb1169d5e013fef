//! Network namespaces for tests and the lab, by `ip netns`.
//!
//! Two runs side by side do not meet: every name is of one process. What a run leaves goes with it, and what a killed
//! run left goes with the next one. Interfaces need no such names: they are made inside a namespace, and are seen
//! nowhere else.

/// One namespace: what runs in it, and its end.
mod namespace;
/// Whose a name is, and the removal of what nobody owns any more.
mod owner;
/// Programs that are there or not, and what they say.
mod program;
/// A bridge with hosts on it.
mod switch;

pub use namespace::Netns;
pub use owner::{remove_folders, remove_leftovers, unique};
pub use program::{able, must, said};
pub use switch::Switch;
