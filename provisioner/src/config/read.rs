//! From written to meant, section by section; every fault is collected, so that one run shows them all.

use super::faults::{Fault, did_you_mean};
use super::meant::{Clock, Config, Dhcp, K3s, Kata, Network, Provisioner, Topology};
use super::read_machine;
use super::wire;
use muster_protocol::class::{Class, DmiRule};
use muster_protocol::ids::{NodeName, Role};
use muster_protocol::k3s_keys;
use muster_protocol::manifest::{KataRequire, Registration};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;
use toml::Spanned;

/// Collects faults; a value that could not be read is `None` and its fault is noted.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<Fault>,
}

impl Reader {
    pub(super) fn fault<T>(&mut self, at: &Spanned<T>, what: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(Fault { span: at.span(), what: what.into(), hint: hint.into() });
    }

    pub(super) fn parse<T: FromStr>(&mut self, text: &Spanned<String>, hint: &str) -> Option<T>
    where
        T::Err: Display,
    {
        text.get_ref().parse().map_err(|error: T::Err| self.fault(text, error.to_string(), hint)).ok()
    }

    pub(super) fn address(&mut self, text: &Spanned<String>) -> Option<Ipv4Addr> {
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            self.fault(text, format!("`{}` is not an IPv4 address", text.get_ref()), "write it as 10.77.0.1");
        }
        parsed
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(
        &mut self,
        text: &Spanned<String>,
        key: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = words.iter().find(|(word, _)| word == text.get_ref()).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fault(
                text,
                format!("`{}` is no {key}", text.get_ref()),
                did_you_mean(text.get_ref(), &known),
            );
        }
        found
    }
}

pub(super) fn classes() -> Vec<(&'static str, Class)> {
    Class::ALL.iter().map(|class| (class.word(), *class)).collect()
}

pub(super) fn config(file: &wire::File) -> Result<Config, Vec<Fault>> {
    let reader = &mut Reader::default();
    let name = reader.parse::<NodeName>(
        &file.cluster.name,
        "the cluster's name is a DNS label: it becomes part of host names",
    );
    let topology = match &file.cluster.topology {
        Some(text) => reader.word(text, "topology", Topology::WORDS),
        None => Some(Topology::Ha),
    };
    let provisioner = provisioner(reader, &file.provisioner);
    let network = network(reader, file.network.as_ref());
    let k3s = k3s(reader, &file.k3s);
    let kata = file.kata.as_ref().and_then(|written| kata(reader, written));
    let authorized_keys = keys(reader, file.ssh.as_ref());
    let hardware = file.hardware.iter().filter_map(|line| hardware(reader, line)).collect();
    let machines = read_machine::machines(reader, &file.machine, &network, kata.is_some());
    if let Some(topology) = topology {
        server_count(reader, file, topology);
    }
    if let (Some(k3s), Some(network_of_vip)) = (&k3s, file.k3s.registration.as_ref())
        && let Registration::Vip(vip) = k3s.registration
        && machines.iter().any(|machine| machine.address.is_some_and(|cidr| cidr.address == vip))
    {
        reader.fault(
            network_of_vip,
            format!("the virtual address {vip} is a machine's own address"),
            "give the servers' virtual address a free address of the same network",
        );
    }
    match (name, topology, provisioner, k3s) {
        (Some(name), Some(topology), Some(provisioner), Some(k3s)) if reader.faults.is_empty() => {
            Ok(Config {
                name,
                topology,
                provisioner,
                network,
                k3s,
                kata,
                authorized_keys,
                hardware,
                machines,
            })
        }
        _ => {
            let mut faults = std::mem::take(&mut reader.faults);
            faults.sort_by_key(|fault| fault.span.start);
            Err(faults)
        }
    }
}

fn provisioner(reader: &mut Reader, written: &wire::Provisioner) -> Option<Provisioner> {
    let interface = written.interface.get_ref();
    // The kernel's rule (dev_valid_name): up to 15 bytes, no slash, no white space, neither `.` nor `..`.
    let valid = (1..=15).contains(&interface.len())
        && !interface.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        && interface != "."
        && interface != "..";
    if !valid {
        reader.fault(
            &written.interface,
            format!("`{interface}` is not the name of a network interface"),
            "the interface that the machines boot from, as `ip link` shows it",
        );
    }
    let dhcp = match &written.dhcp {
        Some(text) => reader.word(text, "dhcp mode", Dhcp::WORDS)?,
        None => Dhcp::Proxy,
    };
    let clock = match &written.clock {
        Some(text) => reader.word(text, "source for `clock`", Clock::WORDS)?,
        None => Clock::Ntp,
    };
    if let Some(taken) = written.api_port.as_ref().filter(|port| [0, 80].contains(port.get_ref())) {
        let what = format!("`api_port` cannot be {}", taken.get_ref());
        reader.fault(taken, what, "0 is no port, and 80 serves boot files; leave it out for 7480");
    }
    let port = |port: &Option<Spanned<u16>>, default| port.as_ref().map_or(default, |port| *port.get_ref());
    Some(Provisioner {
        interface: interface.clone(),
        dhcp,
        user: written.user.as_ref().map(|user| user.get_ref().clone()),
        api_port: port(&written.api_port, muster_protocol::beacon::PORT),
        clock,
    })
}

fn network(reader: &mut Reader, written: Option<&wire::Network>) -> Network {
    let Some(written) = written else { return Network::default() };
    Network {
        gateway: written.gateway.as_ref().and_then(|text| reader.address(text)),
        dns: written.dns.iter().filter_map(|text| reader.address(text)).collect(),
        ntp: written.ntp.iter().filter_map(|text| reader.address(text)).collect(),
    }
}

fn k3s(reader: &mut Reader, written: &wire::K3s) -> Option<K3s> {
    let version = written.version.get_ref();
    if !k3s_version(version) {
        reader.fault(
            &written.version,
            format!("`{version}` is not a k3s version"),
            "write it as k3s names its releases: v1.36.3+k3s1",
        );
    }
    let registration = match &written.registration {
        None => Registration::Hosts,
        Some(text) => registration(reader, text)?,
    };
    let mut extra = Vec::new();
    for (key, value) in &written.extra {
        if let Some(reserved) = k3s_keys::reserved(key) {
            let what = format!("`{key}` cannot be passed through: {}", reserved.why);
            reader.fault(value, what, reserved.remedy);
        } else if let Some(values) = values(value.get_ref()) {
            extra.push((key.clone(), values));
        } else {
            reader.fault(
                value,
                format!("`{key}` is neither text, number, true/false nor a list of them"),
                "k3s's configuration has no nested tables",
            );
        }
    }
    Some(K3s { version: version.clone(), registration, extra })
}

fn k3s_version(text: &str) -> bool {
    let Some((core, build)) = text.strip_prefix('v').and_then(|rest| rest.split_once('+')) else {
        return false;
    };
    let number = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|c| c.is_ascii_digit());
    let core = core.split_once('-').map_or(core, |(core, _)| core);
    core.split('.').count() == 3
        && core.split('.').all(number)
        && build
            .strip_prefix("k3s")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_alphanumeric()))
}

fn values(value: &toml::Value) -> Option<Vec<String>> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            None
        }
    };
    match value {
        toml::Value::Array(list) => list.iter().map(one).collect(),
        single => one(single).map(|text| vec![text]),
    }
}

fn registration(reader: &mut Reader, text: &Spanned<String>) -> Option<Registration> {
    const HINT: &str = "write `hosts`, `dns:NAME` or `vip:ADDRESS`";
    match text.get_ref().split_once(':') {
        None if text.get_ref() == "hosts" => Some(Registration::Hosts),
        Some(("dns", name))
            if !name.is_empty() && name.split('.').all(|label| label.parse::<NodeName>().is_ok()) =>
        {
            Some(Registration::Dns(name.into()))
        }
        Some(("vip", address)) if address.parse::<Ipv4Addr>().is_ok() => {
            address.parse().ok().map(Registration::Vip)
        }
        _ => {
            reader.fault(text, format!("`{}` is no way to find the servers", text.get_ref()), HINT);
            None
        }
    }
}

fn kata(reader: &mut Reader, written: &wire::Kata) -> Option<Kata> {
    let version = written.version.get_ref();
    // It becomes a directory's name on the nodes.
    if version.is_empty()
        || !version.bytes().all(|c| c.is_ascii_alphanumeric() || b".-+".contains(&c))
        || version.contains("..")
    {
        reader.fault(&written.version, format!("`{version}` is not a Kata version"), "write it as 4.1.0");
    }
    let words: Vec<(&str, KataRequire)> = KataRequire::ALL.iter().map(|r| (r.word(), *r)).collect();
    let require = match &written.require {
        Some(text) => reader.word(text, "requirement", &words)?,
        None => KataRequire::Kvm,
    };
    Some(Kata { version: version.clone(), require })
}

fn keys(reader: &mut Reader, written: Option<&wire::Ssh>) -> Vec<String> {
    let mut keys = Vec::new();
    for text in written.iter().flat_map(|ssh| &ssh.authorized_keys) {
        let key = text.get_ref().trim();
        let mut parts = key.split_ascii_whitespace();
        let kind = parts.next().unwrap_or_default();
        let known = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-"];
        if key.contains('\n') || parts.next().is_none() || !known.iter().any(|known| kind.starts_with(known))
        {
            reader.fault(text, "this is not an SSH public key", "one line of an id_ed25519.pub file");
        } else {
            keys.push(key.to_string());
        }
    }
    keys
}

fn hardware(reader: &mut Reader, line: &wire::Hardware) -> Option<DmiRule> {
    Some(DmiRule {
        class: reader.word(&line.class, "class", &classes())?,
        vendor: line.vendor.get_ref().clone(),
        product: line.product.as_ref().map_or_else(String::new, |product| product.get_ref().clone()),
    })
}

fn server_count(reader: &mut Reader, file: &wire::File, topology: Topology) {
    let servers = file.machine.iter().filter(|machine| machine.role.get_ref() == Role::Server.word()).count();
    let at = file.cluster.topology.as_ref().unwrap_or(&file.cluster.name);
    match topology {
        Topology::Ha if servers != 3 && servers != 5 => reader.fault(
            at,
            format!("topology `ha` has 3 or 5 servers, here are {servers}"),
            "etcd keeps its quorum only with an odd number; give 3 or 5 machines `role = \"server\"`, or write topology = \"single\"",
        ),
        Topology::Single if servers != 1 => reader.fault(
            at,
            format!("topology `single` has one server, here are {servers}"),
            "give one machine `role = \"server\"`, or write topology = \"ha\" with 3 or 5 servers",
        ),
        Topology::Ha | Topology::Single => {}
    }
}
