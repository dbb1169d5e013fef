//! The lab's copy of `cluster.toml`: what cannot be had in QEMU is asked for differently, and the copy says so.

use anyhow::{Context, Result};
use toml::{Table, Value};

/// What differs from the operator's file.
const HEAD: &str = "\
# Made by `lab demo` from the file that is named below; the differences are:
#   every machine has `os = \"muster\"` and `install = \"auto\"` (no DGX OS to keep here),
#   `[kata] require = \"files\"` (no guest of QEMU without KVM has /dev/kvm),
#   `[provisioner] clock = \"local\"` (there is no time server to ask, so this host's clock counts as right),
#   only the machines of this run are listed.
";

pub(crate) fn lab_copy(cluster_toml: &str, names: &[String]) -> Result<String> {
    let mut table: Table = cluster_toml.parse().context("cluster.toml")?;
    table.entry("kata").or_insert_with(|| Value::Table(Table::new()));
    if let Some(Value::Table(kata)) = table.get_mut("kata") {
        kata.insert("require".into(), "files".into());
    }
    table.entry("provisioner").or_insert_with(|| Value::Table(Table::new()));
    if let Some(Value::Table(provisioner)) = table.get_mut("provisioner") {
        provisioner.insert("clock".into(), "local".into());
    }
    if let Some(Value::Array(machines)) = table.get_mut("machine") {
        machines.retain(|machine| {
            let name = machine.get("name").and_then(Value::as_str).unwrap_or_default();
            names.iter().any(|wanted| wanted == name)
        });
        for machine in machines.iter_mut().filter_map(Value::as_table_mut) {
            machine.insert("os".into(), "muster".into());
            machine.insert("install".into(), "auto".into());
        }
        // three servers are `ha`, a trial with one is not
        let servers =
            machines.iter().filter(|m| m.get("role").and_then(Value::as_str) == Some("server")).count();
        if let (1, Some(Value::Table(cluster))) = (servers, table.get_mut("cluster")) {
            cluster.insert("topology".into(), "single".into());
        }
    }
    Ok(format!("{HEAD}{}", toml::to_string(&table).context("writing the lab's cluster.toml")?))
}

/// The version that the cluster asks for in `[k3s]` or `[kata]`; its files are in a folder of that name.
pub(crate) fn version(cluster_toml: &str, section: &str) -> Result<String> {
    let table: Table = cluster_toml.parse().context("cluster.toml")?;
    let version = table.get(section).and_then(|section| section.get("version")).and_then(Value::as_str);
    version.map(str::to_owned).with_context(|| format!("cluster.toml: no `version` in [{section}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::declared;

    const EXAMPLE: &str = include_str!("../../../../examples/cluster.toml");

    #[test]
    fn the_copy_installs_everything_and_asks_for_no_kvm() {
        let names: Vec<String> = declared(EXAMPLE).unwrap().into_iter().map(|machine| machine.name).collect();
        let copy: Table = lab_copy(EXAMPLE, &names).unwrap().parse().unwrap();
        assert_eq!(copy["kata"]["require"].as_str(), Some("files"));
        assert_eq!(copy["cluster"]["topology"].as_str(), Some("ha"));
        let machines = copy["machine"].as_array().unwrap();
        assert_eq!(machines.len(), 7);
        for machine in machines {
            assert_eq!((machine["os"].as_str(), machine["install"].as_str()), (Some("muster"), Some("auto")));
        }
    }

    #[test]
    fn a_trial_with_one_server_is_a_single_one() {
        let copy: Table =
            lab_copy(EXAMPLE, &["mini-pc-2".into(), "rtx-host".into()]).unwrap().parse().unwrap();
        assert_eq!(copy["cluster"]["topology"].as_str(), Some("single"));
        assert_eq!(copy["machine"].as_array().unwrap().len(), 2);
    }
}
