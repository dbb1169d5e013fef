//! The small Kubernetes API: objects as JSON in the datastore, with the verbs that Muster's calls need.

pub mod apply; // merge patch and server-side apply, pure
pub mod kinds; // kinds, plurals and paths
pub mod objects; // create, read, patch, delete over the store
pub mod routes; // HTTP to the above
pub mod status; // failure answers as k3s and the API server write them
pub mod store; // etcd's key-value store, or a file in the place of SQLite
