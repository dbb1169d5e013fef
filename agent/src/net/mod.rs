//! The network as far as a boot needs it: one link up, one address, the provisioner found.

/// Our own DHCP client: a pure machine and its socket.
pub mod dhcp;
/// Where the provisioner is: signed beacons.
pub mod find;
/// Link state, addresses, routes over netlink.
pub mod link;
/// IPv4 and UDP headers for a port that has no address yet.
mod packet;
