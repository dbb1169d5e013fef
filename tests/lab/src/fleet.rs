//! The machines of a `cluster.toml` as machines of the lab: the class decides what hardware is put together.

use crate::machine::hardware::{DGX_SPARK, NUC, THINKCENTRE, WORKSTATION};
use crate::machine::{Arch, Bus, DiskSpec, First, Hardware, Spec};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// What the lab reads of a machine's declaration; `cluster.toml` is Muster's, so unknown keys are none of our business.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Declared {
    pub name: String,
    pub class: String,
    pub role: String,
    pub mac: Vec<String>,
    #[serde(default)]
    pub serial: Option<String>,
    #[serde(default)]
    pub sandbox: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Declarations {
    machine: Vec<Declared>,
}

pub fn declared(cluster_toml: &str) -> Result<Vec<Declared>> {
    let all: Declarations = toml::from_str(cluster_toml).context("reading the machines of cluster.toml")?;
    Ok(all.machine)
}

/// Only the named ones, in the file's order; an unknown name is an error that lists the known ones.
pub fn pick(all: Vec<Declared>, names: &[String]) -> Result<Vec<Declared>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|machine| machine.name != **name)) {
        let known: Vec<&str> = all.iter().map(|machine| &*machine.name).collect();
        bail!("no machine `{unknown}`\nhint: there are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|machine| names.is_empty() || names.contains(&machine.name)).collect())
}

/// 24 GiB is the smallest disk that Muster takes by itself; the file behind it is sparse.
const DISK: u64 = 32 << 30;

/// `place` is its place in the file: products and disk buses alternate, so that both kinds are always there.
pub fn spec(machine: &Declared, place: usize) -> Result<Spec> {
    ensure!(!machine.mac.is_empty(), "machine `{}` has no MAC", machine.name);
    let even = place.is_multiple_of(2);
    let (arch, hardware, bus): (Arch, Hardware, Bus) = match &*machine.class {
        "mini-pc" if even => (Arch::X86_64, THINKCENTRE, Bus::Virtio),
        "mini-pc" => (Arch::X86_64, NUC, Bus::Nvme),
        "dgx-spark" => (Arch::Aarch64, DGX_SPARK, if even { Bus::Virtio } else { Bus::Nvme }),
        "rtx-host" => (Arch::X86_64, WORKSTATION, Bus::Virtio),
        other => bail!("machine `{}`: the lab has no hardware of class `{other}`", machine.name),
    };
    let serial = machine.serial.clone().unwrap_or_else(|| format!("LAB{:04}", place + 1));
    Ok(Spec {
        name: machine.name.clone(),
        arch,
        macs: machine.mac.clone(),
        hardware,
        uuid: format!("6d757374-6572-4c61-8062-{:012x}", place + 1),
        disks: vec![DiskSpec { bus, size: DISK, serial: format!("DISK-{serial}") }],
        serial,
        memory_mib: if machine.role == "server" { 1536 } else { 1280 },
        cpus: 1,
        first: First::Disk,
        clock_error_s: clock_error_s(place),
        direct: None,
    })
}

/// Of real machines some have a clock that is wrong; two of the servers are such.
fn clock_error_s(place: usize) -> i64 {
    match place {
        0 => -90,
        1 => 40,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../examples/cluster.toml");

    #[test]
    fn the_example_is_five_x86_machines_and_two_arm_ones() {
        let all = declared(EXAMPLE).unwrap();
        let specs: Vec<Spec> = all.iter().enumerate().map(|(place, m)| spec(m, place).unwrap()).collect();
        let arm: Vec<&str> = specs.iter().filter(|s| s.arch == Arch::Aarch64).map(|s| &*s.name).collect();
        assert_eq!((specs.len(), arm), (7, vec!["dgx-spark-1", "dgx-spark-2"]));
        assert_eq!(specs[0].serial, "PF-0001");
        let mut serials: Vec<&String> = specs.iter().map(|s| &s.serial).collect();
        serials.sort();
        serials.dedup();
        assert_eq!(serials.len(), 7);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = pick(declared(EXAMPLE).unwrap(), &["mini-pc-9".into()]).unwrap_err().to_string();
        assert!(error.contains("`mini-pc-9`") && error.contains("mini-pc-1"), "{error}");
    }
}
