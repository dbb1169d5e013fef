//! A LAN of three hosts in network namespaces: the provisioner, the middle that everything passes, the machine.

use netns::{Netns, Switch};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

pub(crate) const MAC: &str = "02:00:00:00:00:01";
pub(crate) const PROVISIONER: [u8; 4] = [10, 77, 0, 1];
pub(crate) const MIDDLE: [u8; 4] = [10, 77, 0, 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Provisioner,
    Middle,
    Machine,
}

pub(crate) struct Lan {
    dnsmasq: Child,
    provisioner: Netns,
    middle: Netns,
    machine: Netns,
    _switch: Switch,
}

impl Lan {
    pub(crate) fn new(leases: &Path) -> Self {
        let switch = Switch::new().unwrap();
        let provisioner = plug(&switch, "provisioner", "52:54:00:00:77:01");
        let middle = plug(&switch, "middle", "52:54:00:00:77:03");
        let machine = plug(&switch, "machine", MAC);
        provisioner.ip(&["address", "add", "10.77.0.1/24", "dev", "eth0"]).unwrap();
        middle.ip(&["address", "add", "10.77.0.3/24", "dev", "eth0"]).unwrap();
        detour(&machine);
        let dnsmasq = dnsmasq(&middle, leases);
        Self { dnsmasq, provisioner, middle, machine, _switch: switch }
    }

    pub(crate) fn command(&self, host: Host, program: impl AsRef<Path>) -> Command {
        self.netns(host).command(program.as_ref())
    }

    /// Runs `work` on a thread of this host.
    pub(crate) fn run(&self, host: Host, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        self.netns(host).run(work)
    }

    fn netns(&self, host: Host) -> &Netns {
        match host {
            Host::Provisioner => &self.provisioner,
            Host::Middle => &self.middle,
            Host::Machine => &self.machine,
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _gone = self.dnsmasq.kill();
        let _reaped = self.dnsmasq.wait();
    }
}

/// Checksums are made in software: the agent's DHCP client reads raw packets.
fn plug(switch: &Switch, name: &str, mac: &str) -> Netns {
    let host = switch.host(name).unwrap();
    switch.plug(&host, name, Some(mac)).unwrap();
    switch.offload(&host, name, &["tx", "off", "rx", "off"]).unwrap();
    host
}

/// What the machine sends to the provisioner over TCP goes to the middle. Beacons come straight from the provisioner.
fn detour(machine: &Netns) {
    let rules = "table ip detour {
        chain out {
            type nat hook output priority -100;
            ip daddr 10.77.0.1 tcp dport { 80, 7480 } dnat to 10.77.0.3
        }
    }";
    let mut nft = machine.command("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft takes the rules");
}

/// The LAN's own DHCP server, which knows nothing of netboot.
fn dnsmasq(middle: &Netns, leases: &Path) -> Child {
    let mut dnsmasq = middle.command("dnsmasq");
    dnsmasq
        .args(["--no-daemon", "--port=0", "--conf-file=/dev/null", "--interface=eth0", "--no-ping"])
        .args([
            "--dhcp-authoritative",
            "--dhcp-range=10.77.0.100,10.77.0.110,255.255.255.0,2h",
            "--user=root",
        ])
        .arg(format!("--dhcp-leasefile={}", leases.display()));
    dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
