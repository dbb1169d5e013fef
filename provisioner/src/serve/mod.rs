//! The edges: each opens its sockets first, so that rights can be dropped, and then runs for ever.

/// What an agent asks over it.
mod agent_api;
/// TLS on 7480: which route is whose, and who may come in.
pub mod api;
/// Other provisioners, and being found.
pub mod beacon;
/// Boot files and artifacts over HTTP.
pub mod boot_http;
/// ProxyDHCP on 67 and 4011.
pub mod dhcp;
/// Two things only the kernel knows or does, without a safe wrapper.
pub mod kernel;
/// The provisioning interface.
pub mod link;
/// What systemd is told.
pub mod notify;
/// What an operator asks over it.
pub mod operator_api;
/// Who holds a port.
pub mod ports;
/// Fewer rights, once the ports are open.
pub mod privileges;
/// All of it together.
pub mod run;
/// The core, and the time, as edges use them.
pub mod shared;
/// Boot files over TFTP.
pub mod tftp;
