//! k3s's `config.yaml`, written anew at each start from the manifest. Pure.
//!
//! One shared block for all servers; `cluster-init` only in the one start that has the init grant; to workers only keys
//! that `k3s agent` knows, because it dies of any other.

use crate::state::Root;
use muster_protocol::ids::NodeName;
use muster_protocol::k3s_keys::{self, Reserved};
use muster_protocol::manifest::{Manifest, Registration};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// In tmpfs: k3s reads them at each start, nothing else needs them.
pub const TOKEN: &str = "/run/muster/token";
pub const AGENT_TOKEN: &str = "/run/muster/agent-token";
/// Which nodes run sandboxes; the RuntimeClass selects by it (facts: Kata).
pub const SANDBOX_LABEL: (&str, &str) = ("katacontainers.io/kata-runtime", "true");

/// The whole of what decides about membership: "neither" cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datastore {
    Init,
    Join(Ipv4Addr),
    /// The WAL decides; `server:` is what an initialised member falls back to. `None` in a cluster of one.
    Resume(Option<Ipv4Addr>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    #[error("`{key}` in [k3s.extra] cannot be passed through: {}\nhint: {}", reserved.why, reserved.remedy)]
    Reserved { key: String, reserved: &'static Reserved },
    #[error("`{key}` in [k3s.extra] is not a k3s configuration key")]
    NotAKey { key: String },
}

/// Keys of the shared block that `k3s agent` knows too (k3s: pkg/cli/cmds/agent.go).
const AGENT_KEYS: &[&str] = &[
    "airgap-extra-registry",
    "container-runtime-endpoint",
    "debug",
    "default-runtime",
    "disable-apiserver-lb",
    "disable-default-registry-endpoint",
    "flannel-cni-conf",
    "flannel-conf",
    "flannel-iface",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "image-service-endpoint",
    "kube-proxy-arg",
    "kubelet-arg",
    "nonroot-devices",
    "pause-image",
    "prefer-bundled-bin",
    "private-registry",
    "protect-kernel-defaults",
    "resolv-conf",
    "selinux",
    "snapshotter",
    "vpn-auth-file",
];

/// Where the gate puts the tokens: [`TOKEN`] and [`AGENT_TOKEN`], below another root in the lab.
#[derive(Debug, Clone)]
pub struct TokenFiles {
    pub token: PathBuf,
    pub agent_token: PathBuf,
}

impl TokenFiles {
    pub fn below(root: &Root) -> Self {
        Self { token: root.path(TOKEN), agent_token: root.path(AGENT_TOKEN) }
    }
}

pub fn server(
    manifest: &Manifest,
    address: Ipv4Addr,
    datastore: Datastore,
    files: &TokenFiles,
) -> Result<String, BadConfig> {
    let mut yaml = Yaml::new(manifest);
    match datastore {
        Datastore::Init => yaml.one("cluster-init", "true"),
        Datastore::Join(voter) | Datastore::Resume(Some(voter)) => {
            yaml.one("server", &format!("https://{voter}:6443"));
        }
        Datastore::Resume(None) => {}
    }
    yaml.one("token-file", &files.token.to_string_lossy());
    // Without one, k3s makes server/agent-token a link to the server token, and workers would hold that.
    yaml.one("agent-token-file", &files.agent_token.to_string_lossy());
    yaml.node(manifest, Some(address));

    let mut shared = vec![
        ("secrets-encryption".to_owned(), vec!["true".to_owned()]),
        ("write-kubeconfig-mode".to_owned(), vec!["0600".to_owned()]),
        ("tls-san".to_owned(), sans(manifest)),
    ];
    for (key, values) in &manifest.k3s.shared {
        check_key(key)?;
        match shared.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) if key == "tls-san" => {
                known.extend(
                    values.iter().filter(|value| !known.contains(value)).cloned().collect::<Vec<_>>(),
                );
            }
            Some((_, known)) => known.clone_from(values),
            None => shared.push((key.clone(), values.clone())),
        }
    }
    // The same order on every server, so that the block can be compared.
    shared.sort();
    yaml.text.push_str("# Equal on all servers.\n");
    yaml.one("etcd-expose-metrics", "false");
    for (key, values) in &shared {
        yaml.some(key, values);
    }
    Ok(yaml.text)
}

pub fn worker(
    manifest: &Manifest,
    address: Option<Ipv4Addr>,
    files: &TokenFiles,
) -> Result<String, BadConfig> {
    let mut yaml = Yaml::new(manifest);
    yaml.one("server", &format!("https://{}:6443", registration(manifest)));
    yaml.one("token-file", &files.token.to_string_lossy());
    yaml.node(manifest, address);
    for (key, values) in &manifest.k3s.shared {
        check_key(key)?;
        if AGENT_KEYS.contains(&k3s_keys::plain(key)) {
            yaml.some(key, values);
        }
    }
    Ok(yaml.text)
}

/// What workers call the servers.
pub fn registration(manifest: &Manifest) -> String {
    match &manifest.k3s.registration {
        Registration::Hosts => format!("k3s.{}.muster", manifest.cluster_name),
        Registration::Dns(name) => name.clone(),
        Registration::Vip(address) => address.to_string(),
    }
}

/// `server:` of a member: the next declared server that is known as a member, else the next declared one.
pub fn fall_back(servers: &[(NodeName, Ipv4Addr)], me: &NodeName, peers: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let mine = servers.iter().position(|(name, _)| name == me);
    let after = mine.map_or(0, |at| at + 1);
    let ring: Vec<Ipv4Addr> =
        servers[after..].iter().chain(&servers[..mine.unwrap_or(0)]).map(|(_, address)| *address).collect();
    ring.iter().find(|address| peers.contains(address)).or_else(|| ring.first()).copied()
}

fn sans(manifest: &Manifest) -> Vec<String> {
    let mut sans = Vec::new();
    for (name, address) in &manifest.k3s.servers {
        sans.push(name.to_string());
        sans.push(address.to_string());
    }
    sans.push(registration(manifest));
    sans
}

fn check_key(key: &str) -> Result<(), BadConfig> {
    if let Some(reserved) = k3s_keys::reserved(key) {
        return Err(BadConfig::Reserved { key: key.into(), reserved });
    }
    let name = k3s_keys::plain(key);
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(BadConfig::NotAKey { key: key.into() });
    }
    Ok(())
}

/// Flat YAML with every value in double quotes, which is JSON's string form: `0600` and `true` stay text.
struct Yaml {
    text: String,
}

impl Yaml {
    fn new(manifest: &Manifest) -> Self {
        Self {
            text: format!(
                "# Written by muster-agent k3s-gate at each start, manifest {}.\n",
                manifest.number
            ),
        }
    }

    fn one(&mut self, key: &str, value: &str) {
        // Writing to a String has no error path.
        let _ok = writeln!(self.text, "{key}: {}", quoted(value));
    }

    fn some(&mut self, key: &str, values: &[String]) {
        match values {
            [] => {}
            [value] => self.one(key, value),
            values => {
                let _ok = writeln!(self.text, "{key}:");
                for value in values {
                    let _ok = writeln!(self.text, "  - {}", quoted(value));
                }
            }
        }
    }

    fn node(&mut self, manifest: &Manifest, address: Option<Ipv4Addr>) {
        self.one("node-name", manifest.node.as_str());
        if let Some(address) = address {
            self.one("node-ip", &address.to_string());
        }
        let mut labels: Vec<String> =
            manifest.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let sandbox = format!("{}={}", SANDBOX_LABEL.0, SANDBOX_LABEL.1);
        if manifest.kata.is_some() && !labels.contains(&sandbox) {
            labels.push(sandbox);
        }
        self.some("node-label", &labels);
        self.some("node-taint", &manifest.taints);
    }
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::Cluster;

    fn server(manifest: &Manifest, address: Ipv4Addr, datastore: Datastore) -> Result<String, BadConfig> {
        super::server(manifest, address, datastore, &TokenFiles::below(&Root::new("/")))
    }

    fn worker(manifest: &Manifest, address: Option<Ipv4Addr>) -> Result<String, BadConfig> {
        super::worker(manifest, address, &TokenFiles::below(&Root::new("/")))
    }

    fn at(n: u8) -> Ipv4Addr {
        Cluster::address(n)
    }

    #[test]
    fn a_joining_server_s_config_is_this() {
        let manifest = Cluster::new().manifest(2);
        let expected = r#"# Written by muster-agent k3s-gate at each start, manifest 1.0.10.
server: "https://10.99.0.11:6443"
token-file: "/run/muster/token"
agent-token-file: "/run/muster/agent-token"
node-name: "mini-pc-2"
node-ip: "10.99.0.12"
node-label:
  - "muster.dev/class=mini-pc"
  - "katacontainers.io/kata-runtime=true"
# Equal on all servers.
etcd-expose-metrics: "false"
disable: "traefik"
secrets-encryption: "true"
tls-san:
  - "mini-pc-1"
  - "10.99.0.11"
  - "mini-pc-2"
  - "10.99.0.12"
  - "mini-pc-3"
  - "10.99.0.13"
  - "k3s.sharpi.muster"
write-kubeconfig-mode: "0600"
"#;
        assert_eq!(server(&manifest, at(2), Datastore::Join(at(1))).unwrap(), expected);
    }

    #[test]
    fn cluster_init_is_said_in_the_init_start_alone() {
        let manifest = Cluster::new().manifest(1);
        let init = server(&manifest, at(1), Datastore::Init).unwrap();
        assert!(init.contains("cluster-init: \"true\"") && !init.contains("\nserver:"), "{init}");
        for other in [Datastore::Join(at(2)), Datastore::Resume(Some(at(2))), Datastore::Resume(None)] {
            assert!(!server(&manifest, at(1), other).unwrap().contains("cluster-init"));
        }
    }

    #[test]
    fn the_shared_block_is_equal_on_all_servers() {
        let cluster = Cluster::new();
        let block = |n| {
            let text = server(&cluster.manifest(n), at(n), Datastore::Resume(None)).unwrap();
            text.split_once("# Equal on all servers.").unwrap().1.to_owned()
        };
        assert_eq!(block(1), block(2));
        assert_eq!(block(2), block(3));
    }

    #[test]
    fn a_worker_gets_no_key_that_only_servers_know() {
        let mut manifest = Cluster::new().manifest(4);
        manifest.taints = vec!["nvidia.com/gpu=present:NoSchedule".into()];
        manifest.kata = None;
        manifest.k3s.shared.push(("kubelet-arg+".into(), vec!["v=2".into()]));
        let expected = r#"# Written by muster-agent k3s-gate at each start, manifest 1.0.10.
server: "https://k3s.sharpi.muster:6443"
token-file: "/run/muster/token"
node-name: "mini-pc-4"
node-label: "muster.dev/class=mini-pc"
node-taint: "nvidia.com/gpu=present:NoSchedule"
kubelet-arg+: "v=2"
"#;
        assert_eq!(worker(&manifest, None).unwrap(), expected);
    }

    #[test]
    fn a_reserved_key_cannot_be_passed_through() {
        let mut manifest = Cluster::new().manifest(1);
        for reserved in k3s_keys::ALL {
            for key in [reserved.key.to_owned(), format!("{}+", reserved.key)] {
                manifest.k3s.shared = vec![(key.clone(), vec!["x".into()])];
                let refused = Err(BadConfig::Reserved { key, reserved });
                assert_eq!(server(&manifest, at(1), Datastore::Resume(None)), refused);
                assert_eq!(worker(&manifest, None), refused);
            }
        }
        for key in ["", "+", "cluster-init++", "a: b\ncluster-init", "x y"] {
            manifest.k3s.shared = vec![(key.into(), vec!["x".into()])];
            assert!(server(&manifest, at(1), Datastore::Init).is_err());
        }
    }

    #[test]
    fn no_value_can_leave_its_quotes() {
        let mut manifest = Cluster::new().manifest(4);
        manifest.labels = vec![("a".into(), "\"\ncluster-init: true".into())];
        let text = worker(&manifest, None).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("cluster-init")).count(), 0, "{text}");
    }

    #[test]
    fn a_member_falls_back_to_the_next_declared_server_and_never_to_itself() {
        let servers = Cluster::new().manifest(1).k3s.servers;
        let next = |n, peers: &[Ipv4Addr]| fall_back(&servers, &Cluster::name(n), peers);
        assert_eq!(next(1, &[]), Some(at(2)));
        assert_eq!(next(3, &[]), Some(at(1)));
        assert_eq!(next(1, &[at(3)]), Some(at(3)));
        assert_eq!(next(2, &[at(1), at(3)]), Some(at(3)));
        assert_eq!(fall_back(&servers[..1], &Cluster::name(1), &[]), None);
    }
}
