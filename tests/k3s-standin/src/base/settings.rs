//! What config.yaml and the command line say (written), and what it means (`Settings`).
//!
//! The two roles treat a foreign key differently, as in k3s: the server skips it with a warning, the agent fails.

use crate::base::keys::{BOOLEAN, BOTH, CRITICAL, SERVER_ONLY};
use crate::base::yaml;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Agent,
}

/// Keys and their values in order; a later entry of a key replaces an earlier one.
pub type Written = BTreeMap<String, Vec<String>>;

#[derive(Debug, thiserror::Error)]
pub enum BadSettings {
    #[error("failed to read {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("failed to parse {}: {source}", file.display())]
    Parse { file: PathBuf, source: yaml::BadYaml },
    #[error("{} is not a mapping of keys to values", file.display())]
    Shape { file: PathBuf },
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {value:?} for -{key}")]
    Boolean { key: String, value: String },
    #[error("failed to read token file {}: {source}", file.display())]
    TokenFile { file: PathBuf, source: std::io::Error },
}

/// What one start is to be.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub cluster_init: bool,
    pub cluster_reset: bool,
    pub restore_path: Option<String>,
    pub server: Option<String>,
    pub token: Option<String>,
    pub agent_token: Option<String>,
    pub node_name: Option<String>,
    pub node_ip: Option<String>,
    pub tls_san: Vec<String>,
    pub node_label: Vec<String>,
    pub node_taint: Vec<String>,
    pub port: u16,
    pub balancer_port: u16,
    pub kubeconfig_mode: u32,
    pub metrics_on_node_ip: bool,
    pub datastore_endpoint: Option<String>,
    /// What must be equal on all servers (CriticalControlArgs).
    pub critical: BTreeMap<String, String>,
}

/// The config files in the order in which they count: config.yaml, then config.yaml.d/*.yaml by name.
pub fn read_files(main: &Path) -> Result<Written, BadSettings> {
    let mut files = vec![main.to_path_buf()];
    let mut extra: Vec<PathBuf> = std::fs::read_dir(main.with_extension("yaml.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    extra.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    extra.sort();
    files.extend(extra);
    let mut written = Written::new();
    for file in files {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BadSettings::Read { file, source }),
        };
        merge_file(&mut written, &file, &text)?;
    }
    Ok(written)
}

fn merge_file(written: &mut Written, file: &Path, text: &str) -> Result<(), BadSettings> {
    let docs = yaml::documents(text).map_err(|source| BadSettings::Parse { file: file.into(), source })?;
    for doc in docs {
        let Value::Object(map) = doc else { return Err(BadSettings::Shape { file: file.into() }) };
        for (key, value) in map {
            let values = match &value {
                Value::Array(items) => items.iter().map(plain).collect::<Option<Vec<_>>>(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    plain(&value).map(|v| vec![v])
                }
            };
            let values = values.ok_or_else(|| BadSettings::Shape { file: file.into() })?;
            match key.strip_suffix('+') {
                Some(key) => written.entry(key.to_owned()).or_default().extend(values),
                None => drop(written.insert(key, values)),
            }
        }
    }
    Ok(())
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Flags win over files; a repeated flag is a list.
pub fn read_flags(args: &[String]) -> Result<Written, BadSettings> {
    let mut written = Written::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix('-').map(|a| a.strip_prefix('-').unwrap_or(a)) else {
            return Err(BadSettings::Unknown(arg.clone()));
        };
        let (key, value) = match flag.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (flag, None),
        };
        let key = match key {
            "s" => "server",
            "t" => "token",
            "d" => "data-dir",
            "c" => "config",
            other => other,
        };
        let value = match value {
            Some(value) => value,
            None if BOOLEAN.contains(&key) => "true".to_owned(),
            None => args.next().cloned().ok_or_else(|| BadSettings::NoValue(key.to_owned()))?,
        };
        written.entry(key.to_owned()).or_default().push(value);
    }
    Ok(written)
}

/// Drop what a server does not know (the caller warns), fail on what an agent does not know.
pub fn check_keys(written: &mut Written, role: Role) -> Result<Vec<String>, BadSettings> {
    let known = |key: &str| BOTH.contains(&key) || (role == Role::Server && SERVER_ONLY.contains(&key));
    let foreign: Vec<String> = written.keys().filter(|key| !known(key)).cloned().collect();
    match (role, foreign.first()) {
        (Role::Agent, Some(key)) => Err(BadSettings::Unknown(key.clone())),
        (Role::Agent | Role::Server, _) => {
            written.retain(|key, _| known(key));
            Ok(foreign)
        }
    }
}

impl Settings {
    pub fn meant(written: &Written) -> Result<Self, BadSettings> {
        let last = |key: &str| written.get(key).and_then(|v| v.last()).filter(|v| !v.is_empty()).cloned();
        let list = |key: &str| -> Vec<String> {
            let values = written.get(key).cloned().unwrap_or_default();
            values.iter().flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).map(str::to_owned).collect()
        };
        let truth = |key: &str| match last(key).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(value) => Err(BadSettings::Boolean { key: key.to_owned(), value: value.to_owned() }),
        };
        let secret = |key: &str| match (last(key), last(&format!("{key}-file"))) {
            (Some(token), _) => Ok(Some(token)),
            (None, None) => Ok(None),
            (None, Some(file)) => match std::fs::read_to_string(&file) {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(source) => Err(BadSettings::TokenFile { file: file.into(), source }),
            },
        };
        let mut critical: BTreeMap<String, String> = CRITICAL
            .iter()
            .map(|(key, default)| ((*key).to_owned(), last(key).unwrap_or_else(|| (*default).to_owned())))
            .collect();
        critical
            .insert("disable-servicelb".into(), list("disable").contains(&"servicelb".into()).to_string());
        Ok(Self {
            cluster_init: truth("cluster-init")?,
            cluster_reset: truth("cluster-reset")?,
            restore_path: last("cluster-reset-restore-path"),
            server: last("server"),
            token: secret("token")?,
            agent_token: secret("agent-token")?,
            node_name: last("node-name"),
            node_ip: list("node-ip").into_iter().next(),
            tls_san: list("tls-san"),
            node_label: list("node-label"),
            node_taint: list("node-taint"),
            port: last("https-listen-port").and_then(|p| p.parse().ok()).unwrap_or(6443),
            balancer_port: last("lb-server-port").and_then(|p| p.parse().ok()).unwrap_or(6444),
            kubeconfig_mode: last("write-kubeconfig-mode")
                .and_then(|m| u32::from_str_radix(m.trim_start_matches("0o"), 8).ok())
                .unwrap_or(0o600),
            metrics_on_node_ip: truth("etcd-expose-metrics")?,
            datastore_endpoint: last("datastore-endpoint"),
            critical,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Written {
        let mut written = Written::new();
        merge_file(&mut written, Path::new("config.yaml"), text).unwrap();
        written
    }

    #[test]
    fn a_later_file_replaces_and_a_plus_appends() {
        let mut written = file("node-label: [a=b]\ntoken: x\n");
        merge_file(&mut written, Path::new("d"), "node-label+: [c=d]\ntoken: y\n").unwrap();
        let settings = Settings::meant(&written).unwrap();
        assert_eq!(settings.node_label, ["a=b", "c=d"]);
        assert_eq!(settings.token.as_deref(), Some("y"));
    }

    #[test]
    fn a_server_only_key_fails_an_agent_with_the_recorded_text() {
        let why = check_keys(&mut file("cluster-init: true\n"), Role::Agent).unwrap_err();
        let recorded = include_str!("../../fixtures/logs/texts.txt");
        assert!(recorded.contains(&format!("level=fatal msg=\"Error: {why}\"")));
    }

    #[test]
    fn a_server_skips_what_it_does_not_know() {
        let mut written = file("cluster-init: true\nfoo: 1\n");
        assert_eq!(check_keys(&mut written, Role::Server).unwrap(), ["foo"]);
        assert!(Settings::meant(&written).unwrap().cluster_init);
    }

    #[test]
    fn flags_take_their_value_either_way() {
        let args = ["--cluster-init", "-t", "x", "--tls-san=a", "--tls-san", "b"].map(String::from);
        let settings = Settings::meant(&read_flags(&args).unwrap()).unwrap();
        assert!(settings.cluster_init);
        assert_eq!(settings.tls_san, ["a", "b"]);
        assert!(matches!(read_flags(&["--token".into()]), Err(BadSettings::NoValue(_))));
    }

    #[test]
    fn servicelb_is_the_only_disable_that_must_be_equal() {
        let critical = |text| Settings::meant(&file(text)).unwrap().critical;
        assert_eq!(critical("disable: [traefik]\n"), critical(""));
        assert_ne!(critical("disable: [servicelb]\n"), critical(""));
        assert_ne!(critical("secrets-encryption: true\n"), critical(""));
    }
}
