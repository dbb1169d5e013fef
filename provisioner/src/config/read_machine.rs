//! Machines: from written to meant, with the defaults of each class.

use super::meant::{DiskBus, DiskRule, GPU_TAINT, Install, Machine, Network, Os, Quirk};
use super::read::{Reader, classes};
use super::wire;
use muster_protocol::class::Class;
use muster_protocol::ids::{Cidr, Mac, NodeName, Role};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use toml::Spanned;

pub(super) fn machines(
    reader: &mut Reader,
    written: &[wire::Machine],
    network: &Network,
    kata: bool,
) -> Vec<Machine> {
    let mut taken = Taken::default();
    written.iter().filter_map(|machine| one(reader, machine, network, kata, &mut taken)).collect()
}

/// What may be used once only, and by whom it is.
#[derive(Default)]
struct Taken {
    names: BTreeMap<NodeName, ()>,
    macs: BTreeMap<Mac, String>,
    addresses: BTreeMap<Ipv4Addr, String>,
    serials: BTreeMap<String, String>,
}

fn one(
    reader: &mut Reader,
    written: &wire::Machine,
    network: &Network,
    kata: bool,
    taken: &mut Taken,
) -> Option<Machine> {
    let name = reader.parse::<NodeName>(&written.name, "names become host names and k3s node names");
    if let Some(name) = &name
        && taken.names.insert(name.clone(), ()).is_some()
    {
        reader.fault(
            &written.name,
            format!("a machine `{name}` was declared above"),
            "every machine has its own name",
        );
    }
    let owner = written.name.get_ref();
    let roles: Vec<(&str, Role)> = Role::ALL.iter().map(|role| (role.word(), *role)).collect();
    let class = reader.word(&written.class, "class", &classes());
    let role = reader.word(&written.role, "role", &roles);
    let macs = macs(reader, &written.mac, owner, taken);
    let address = written.address.as_ref().and_then(|text| address(reader, text, owner, network, taken));
    if role == Some(Role::Server) && written.address.is_none() {
        reader.fault(
            &written.role,
            format!("server `{owner}` has no address"),
            "servers need a static one, such as address = \"10.77.0.11/24\": etcd's members are known by address",
        );
    }
    let serial = written.serial.as_ref().map(|text| text.get_ref().trim().to_string());
    if let (Some(serial), Some(text)) = (&serial, &written.serial)
        && let Some(other) = taken.serials.insert(serial.clone(), owner.clone())
    {
        reader.fault(
            text,
            format!("serial `{serial}` is also that of `{other}`"),
            "leave `serial` out where it is a placeholder",
        );
    }
    let class = class?;
    let os = match &written.os {
        Some(text) => reader.word(text, "choice for `os`", Os::WORDS),
        None => Some(if class == Class::DgxSpark { Os::Keep } else { Os::Muster }),
    };
    let install = match &written.install {
        Some(text) => reader.word(text, "choice for `install`", Install::WORDS),
        None => Some(Install::Manual),
    };
    if let (Some(text), Some(Install::Auto), Some(Os::Keep)) = (&written.install, install, os) {
        reader.fault(
            text,
            format!("`{owner}` keeps its system, so nothing can be installed on it"),
            "leave `install` out, or write os = \"muster\"",
        );
    }
    let disk = match &written.disk {
        Some(text) => disk(reader, text),
        None => Some(DiskRule::Only),
    };
    let sandbox = sandbox(reader, written, class, kata);
    let labels = labels(reader, &written.labels);
    let taints = match &written.taints {
        Some(list) => list.iter().filter_map(|text| taint(reader, text)).collect(),
        None if class == Class::RtxHost => vec![GPU_TAINT.to_string()],
        None => Vec::new(),
    };
    let quirks = written.quirks.iter().filter_map(|text| reader.word(text, "quirk", Quirk::WORDS)).collect();
    Some(Machine {
        name: name?,
        class,
        role: role?,
        macs,
        serial,
        address,
        disk: disk?,
        install: install?,
        os: os?,
        sandbox,
        labels,
        taints,
        quirks,
    })
}

fn macs(
    reader: &mut Reader,
    list: &Spanned<Vec<Spanned<String>>>,
    owner: &str,
    taken: &mut Taken,
) -> Vec<Mac> {
    if list.get_ref().is_empty() {
        reader.fault(
            list,
            format!("`{owner}` has no MAC address"),
            "muster recognises a machine by one; it is on the label and in the firmware's network menu",
        );
    }
    let mut macs = Vec::new();
    for text in list.get_ref() {
        let Some(mac) = reader.parse::<Mac>(text, "six pairs of hexadecimal digits") else { continue };
        // The lowest bit of the first byte marks a group (IEEE 802): no machine sends from one.
        if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
            reader.fault(
                text,
                format!("{mac} is not one machine's address"),
                "group addresses and all zeros belong to nobody",
            );
        } else if let Some(other) = taken.macs.insert(mac, owner.to_string()) {
            reader.fault(
                text,
                format!("{mac} is also an address of `{other}`"),
                "every MAC address belongs to one machine",
            );
        } else {
            macs.push(mac);
        }
    }
    macs
}

fn address(
    reader: &mut Reader,
    text: &Spanned<String>,
    owner: &str,
    network: &Network,
    taken: &mut Taken,
) -> Option<Cidr> {
    let cidr = reader.parse::<Cidr>(text, "an address and the length of its network's prefix, 8 to 30")?;
    let host_bits = u32::MAX >> cidr.prefix;
    let host = u32::from(cidr.address) & host_bits;
    if host == 0 || host == host_bits {
        reader.fault(
            text,
            format!("{} is the network's own or its broadcast address", cidr.address),
            "choose one in between",
        );
    }
    if let Some(gateway) = network.gateway {
        if gateway == cidr.address {
            reader.fault(text, format!("{gateway} is the gateway's address"), "choose a free address");
        } else if !cidr.contains(gateway) {
            reader.fault(
                text,
                format!("the gateway {gateway} is not on the network {cidr}"),
                "the machine could not reach it: correct the prefix length or [network] gateway",
            );
        }
    }
    if let Some(other) = taken.addresses.insert(cidr.address, owner.to_string()) {
        reader.fault(
            text,
            format!("{} is also the address of `{other}`", cidr.address),
            "every machine has its own address",
        );
    }
    Some(cidr)
}

fn disk(reader: &mut Reader, text: &Spanned<String>) -> Option<DiskRule> {
    match text.get_ref().split_once(':') {
        None if text.get_ref() == "smallest" => return Some(DiskRule::Smallest),
        None if text.get_ref() == "largest" => return Some(DiskRule::Largest),
        Some(("serial", serial)) if !serial.is_empty() => return Some(DiskRule::Serial(serial.into())),
        Some(("wwn", wwn)) if !wwn.is_empty() => return Some(DiskRule::Wwn(wwn.into())),
        Some(("bus", bus)) => {
            if let Some((_, bus)) = DiskBus::WORDS.iter().find(|(word, _)| *word == bus) {
                return Some(DiskRule::Bus(*bus));
            }
        }
        _ => {}
    }
    reader.fault(
        text,
        format!("`{}` does not choose a disk", text.get_ref()),
        "write serial:X, wwn:X, smallest, largest, or bus:nvme, bus:sata, bus:virtio, bus:mmc",
    );
    None
}

fn sandbox(reader: &mut Reader, written: &wire::Machine, class: Class, kata: bool) -> bool {
    let owner = written.name.get_ref();
    match (&written.sandbox, class) {
        (Some(flag), Class::RtxHost) if *flag.get_ref() => {
            reader.fault(
                flag,
                format!("`{owner}` is an rtx-host: it runs GPU work and no sandboxes"),
                "leave `sandbox` out",
            );
            false
        }
        (Some(flag), _) if *flag.get_ref() && !kata => {
            reader.fault(
                flag,
                format!("`{owner}` runs sandboxes, but there is no [kata] section"),
                "add [kata] with its version, or write sandbox = false",
            );
            false
        }
        (Some(flag), _) => *flag.get_ref(),
        (None, Class::MiniPc | Class::DgxSpark) => kata,
        (None, Class::RtxHost | Class::Generic) => false,
    }
}

fn labels(reader: &mut Reader, written: &BTreeMap<String, Spanned<String>>) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    for (key, value) in written {
        if !qualified(key) || !(value.get_ref().is_empty() || label_word(value.get_ref())) {
            reader.fault(
                value,
                format!("`{key} = {}` is not a Kubernetes label", value.get_ref()),
                "key: [domain/]name, value: up to 63 of A-Z a-z 0-9 . _ -",
            );
        } else {
            labels.push((key.clone(), value.get_ref().clone()));
        }
    }
    labels
}

fn taint(reader: &mut Reader, text: &Spanned<String>) -> Option<String> {
    let parts = text.get_ref().rsplit_once(':');
    let effect =
        parts.is_some_and(|(_, effect)| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect));
    let pair = parts.map(|(pair, _)| pair.split_once('=').unwrap_or((pair, "")));
    if effect && pair.is_some_and(|(key, value)| qualified(key) && (value.is_empty() || label_word(value))) {
        return Some(text.get_ref().clone());
    }
    reader.fault(
        text,
        format!("`{}` is not a taint", text.get_ref()),
        "write key=value:Effect with the effect NoSchedule, PreferNoSchedule or NoExecute",
    );
    None
}

/// Kubernetes' qualified name: an optional DNS domain, a slash, a label word.
fn qualified(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let domain_fits = domain.is_none_or(|domain| {
        domain.len() <= 253
            && domain.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            })
    });
    domain_fits && label_word(name)
}

fn label_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
