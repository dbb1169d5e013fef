//! The Node's part that both roles have. No pod is ever run; what is checked here is what can stop a real node from starting.

pub mod containerd; // the rendered config, the drop-ins, and what makes containerd refuse them
pub mod heartbeat; // registration and lease
pub mod machine; // facts of this machine
pub mod node; // the Node object
pub mod password; // node passwords
