//! A bridge in a namespace of its own, where the provisioner is, and a namespace for each machine.

use netns::{Netns, Switch};
use std::net::Ipv4Addr;

pub(crate) const PROVISIONER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The servers' virtual address: keepalived's business on real machines, here it stays with the first server.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

pub(crate) struct Lan {
    switch: Switch,
    machines: Vec<Netns>,
}

impl Lan {
    pub(crate) fn new(machines: u8) -> Self {
        let switch = Switch::new().unwrap();
        switch.hub().ip(&["addr", "add", &format!("{PROVISIONER}/24"), "brd", "+", "dev", "br0"]).unwrap();
        let machines: Vec<Netns> = (1..=machines).map(|n| machine(&switch, n)).collect();
        machines[0].ip(&["addr", "add", &format!("{VIP}/24"), "dev", "eth0"]).unwrap();
        Self { switch, machines }
    }

    pub(crate) fn hub(&self) -> &Netns {
        self.switch.hub()
    }

    pub(crate) fn machine(&self, n: u8) -> &Netns {
        &self.machines[usize::from(n) - 1]
    }
}

fn machine(switch: &Switch, n: u8) -> Netns {
    let machine = switch.host(&format!("m{n}")).unwrap();
    switch.plug(&machine, &format!("port{n}"), None).unwrap();
    machine.ip(&["addr", "add", &format!("{}/24", address(n)), "brd", "+", "dev", "eth0"]).unwrap();
    machine.ip(&["route", "add", "default", "via", &PROVISIONER.to_string()]).unwrap();
    machine
}
