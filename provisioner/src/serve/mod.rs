//! The edges: each opens its sockets first, so that rights can be dropped, and then runs for ever.

/// Boot files and artifacts over HTTP.
pub mod boot_http;
/// ProxyDHCP on 67 and 4011.
pub mod dhcp;
/// The provisioning interface.
pub mod link;
/// Boot files over TFTP.
pub mod tftp;
