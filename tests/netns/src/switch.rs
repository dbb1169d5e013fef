//! A LAN that nothing leaves: a bridge in a namespace of its own, and hosts that are plugged into it.

use crate::namespace::Netns;
use crate::owner::{remove_leftovers, unique};
use crate::program::said;
use anyhow::Result;

const BRIDGE: &str = "br0";

/// A host may outlive it, without a cable.
#[derive(Debug)]
pub struct Switch {
    name: String,
    hub: Netns,
}

impl Switch {
    /// Also removes what killed runs left.
    pub fn new() -> Result<Self> {
        remove_leftovers()?;
        let name = unique()?;
        let hub = Netns::make(format!("{name}-lan"))?;
        // A port carries from its first packet on, and multicast goes everywhere.
        hub.ip(&["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
        hub.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(Self { name, hub })
    }

    /// The unique beginning of all names of this LAN.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the bridge is, as `br0`.
    pub fn hub(&self) -> &Netns {
        &self.hub
    }

    /// A host, not plugged in yet.
    pub fn host(&self, what: &str) -> Result<Netns> {
        Netns::make(format!("{}-{what}", self.name))
    }

    /// A cable from `eth0` of a host to a port of this name, at most 15 bytes long.
    pub fn plug(&self, host: &Netns, port: &str, mac: Option<&str>) -> Result<()> {
        let mut cable =
            vec!["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name()];
        if let Some(mac) = mac {
            cable.extend(["address", mac]);
        }
        self.hub.ip(&cable)?;
        self.hub.ip(&["link", "set", port, "master", BRIDGE, "up"])?;
        host.ip(&["link", "set", "eth0", "up"]).map(drop)
    }

    /// `ethtool -K` at both ends of a cable: what the cards do, or leave to software.
    pub fn offload(&self, host: &Netns, port: &str, features: &[&str]) -> Result<()> {
        for (netns, link) in [(&self.hub, port), (host, "eth0")] {
            said(netns.command("ethtool").args(["-K", link]).args(features))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::able;
    use crate::namespace::tests::sleeper;

    fn names() -> String {
        said(std::process::Command::new("ip").args(["netns", "list"])).unwrap()
    }

    #[test]
    fn hosts_reach_each_other_and_nobody_on_another_switch() {
        if !able(&["ping"]) {
            return;
        }
        let (one, other) = (Switch::new().unwrap(), Switch::new().unwrap());
        let host = |switch: &Switch, n: u8| {
            let host = switch.host(&format!("h{n}")).unwrap();
            switch.plug(&host, &format!("h{n}"), Some(&format!("02:00:00:00:00:{n:02x}"))).unwrap();
            host.ip(&["address", "add", &format!("10.77.0.{n}/24"), "dev", "eth0"]).unwrap();
            host
        };
        // The other switch has the same names, and a host with an address that the first has not.
        let (first, _second, _third) = (host(&one, 1), host(&one, 2), host(&other, 3));
        let ping = |to| {
            let mut ping = first.command("ping");
            ping.args(["-c", "1", "-W", "2", to]).output().unwrap().status.success()
        };
        assert!(ping("10.77.0.2"));
        assert!(!ping("10.77.0.3"));
        let listed = first.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let listed = listed.join().unwrap();
        assert!(listed.contains("eth0:") && !listed.contains("br0:"), "{listed}");
    }

    #[test]
    fn a_dropped_switch_and_its_hosts_are_gone_with_what_ran_there() {
        if !able(&[]) {
            return;
        }
        let switch = Switch::new().unwrap();
        let host = switch.host("h1").unwrap();
        let copy = host.clone();
        let name = switch.name().to_owned();
        let mut sleeper = sleeper(&host);
        drop(host);
        assert!(names().contains(copy.name()), "a copy of it is there");
        drop((copy, switch));
        assert!(!names().contains(&name));
        assert!(!sleeper.wait().unwrap().success());
    }

    #[test]
    fn a_power_cut_ends_everything_but_the_host() {
        if !able(&[]) {
            return;
        }
        let switch = Switch::new().unwrap();
        let host = switch.host("h1").unwrap();
        let mut sleeper = sleeper(&host);
        host.kill_all().unwrap();
        assert!(host.pids().unwrap().is_empty());
        assert!(!sleeper.wait().unwrap().success());
        host.ip(&["link", "show", "lo"]).unwrap();
    }
}
