//! Facts of this machine, as a Node shows them; what cannot be read is left empty.

use std::net::{IpAddr, UdpSocket};

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub hostname: String,
    pub arch: &'static str,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
    pub system_uuid: String,
    pub cpus: usize,
    pub memory_ki: u64,
}

pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default().to_lowercase()
}

/// The address that a packet to anywhere would leave from; none without a route, and then k3s does not start either.
pub fn default_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1: connecting a datagram socket sends nothing
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

impl Machine {
    pub fn read() -> Self {
        let line =
            |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let os = line("/etc/os-release");
        let os_image = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
        let memory = line("/proc/meminfo");
        let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
        Self {
            hostname: hostname(),
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_ki: total.trim().trim_end_matches(" kB").parse().unwrap_or(0),
        }
    }
}
