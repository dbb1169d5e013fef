//! The shape of `cluster.toml` as it is written; docs/configuration.md explains each key.

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub cluster: Cluster,
    pub provisioner: Provisioner,
    pub network: Option<Network>,
    pub k3s: K3s,
    pub kata: Option<Kata>,
    pub ssh: Option<Ssh>,
    #[serde(default)]
    pub hardware: Vec<Hardware>,
    #[serde(default)]
    pub machine: Vec<Machine>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub name: Text,
    pub topology: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provisioner {
    pub interface: Text,
    pub dhcp: Option<Text>,
    pub user: Option<Text>,
    pub api_port: Option<Spanned<u16>>,
    pub clock: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub gateway: Option<Text>,
    #[serde(default)]
    pub dns: Vec<Text>,
    #[serde(default)]
    pub ntp: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct K3s {
    pub version: Text,
    pub registration: Option<Text>,
    #[serde(default)]
    pub extra: BTreeMap<String, Spanned<toml::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kata {
    pub version: Text,
    pub require: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    #[serde(default)]
    pub authorized_keys: Vec<Text>,
}

/// A line for the table of known hardware.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    pub class: Text,
    pub vendor: Text,
    pub product: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub name: Text,
    pub class: Text,
    pub role: Text,
    pub mac: Spanned<Vec<Text>>,
    pub serial: Option<Text>,
    pub address: Option<Text>,
    pub disk: Option<Text>,
    pub install: Option<Text>,
    pub os: Option<Text>,
    pub sandbox: Option<Spanned<bool>>,
    #[serde(default)]
    pub labels: BTreeMap<String, Text>,
    pub taints: Option<Vec<Text>>,
    #[serde(default)]
    pub quirks: Vec<Text>,
}
