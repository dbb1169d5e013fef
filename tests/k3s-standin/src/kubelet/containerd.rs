//! containerd's config: rendered as recorded, with the imports line; drop-ins are read as containerd would, and a bad one ends k3s.

use crate::base::paths::{Paths, write};
use k3s_model::texts;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The newest config version that containerd 2.3 reads.
const NEWEST: i64 = 4;
const RUNTIME_PLUGIN: &str = "io.containerd.cri.v1.runtime";

#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    #[error("cannot write or read {}: {source}", file.display())]
    Io { file: PathBuf, source: std::io::Error },
    #[error("failed to load TOML: {}: {why}", file.display())]
    Toml { file: PathBuf, why: String },
    #[error("{}: expected containerd config version equal to or less than `{NEWEST}`, got `{got}`", file.display())]
    Version { file: PathBuf, got: String },
    #[error("failed to load TOML: {}: {path} is not a {want}", file.display())]
    Type { file: PathBuf, path: String, want: &'static str },
}

impl ContainerdError {
    /// What k3s says when its containerd ends; the reason is in containerd's own log.
    pub fn shutdown_text() -> &'static str {
        texts::CONTAINERD_EXITED
    }
}

/// Write config.toml, read the drop-ins, and say which runtime handlers there are.
pub fn prepare(paths: &Paths) -> Result<Vec<String>, ContainerdError> {
    let dir = paths.containerd();
    let config = dir.join("config.toml");
    let io = |file: &Path| {
        let file = file.to_path_buf();
        move |source| ContainerdError::Io { file, source }
    };
    let data = paths.data.display().to_string();
    let run = paths.rooted("/run/k3s/containerd").display().to_string();
    write(&config, 0o600, rendered(&data, &run).as_bytes()).map_err(io(&config))?;
    let mut files: Vec<PathBuf> = match std::fs::read_dir(dir.join("config-v3.toml.d")) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io(&dir.join("config-v3.toml.d"))(e)),
    };
    files.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let mut handlers: BTreeSet<String> =
        ["", "runc", "runhcs-wcow-process"].map(String::from).into_iter().collect();
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(io(file))?;
        handlers.extend(drop_in(file, &text)?);
    }
    Ok(handlers.into_iter().collect())
}

/// The runtime handlers that a drop-in adds.
fn drop_in(file: &Path, text: &str) -> Result<Vec<String>, ContainerdError> {
    let parsed: toml::Table = toml::from_str(text)
        .map_err(|e| ContainerdError::Toml { file: file.into(), why: e.message().to_owned() })?;
    let wrong = |path: &str, want| ContainerdError::Type { file: file.into(), path: path.to_owned(), want };
    match parsed.get("version") {
        None => {}
        Some(toml::Value::Integer(v)) if (1..=NEWEST).contains(v) => {}
        Some(other) => {
            return Err(ContainerdError::Version { file: file.into(), got: other.to_string() });
        }
    }
    if let Some(imports) = parsed.get("imports")
        && imports.as_array().is_none()
    {
        return Err(wrong("imports", "list"));
    }
    let Some(plugins) = parsed.get("plugins") else { return Ok(Vec::new()) };
    let mut at = plugins.as_table().ok_or_else(|| wrong("plugins", "table"))?;
    for key in [RUNTIME_PLUGIN, "containerd", "runtimes"] {
        match at.get(key) {
            None => return Ok(Vec::new()),
            Some(next) => at = next.as_table().ok_or_else(|| wrong(key, "table"))?,
        }
    }
    let mut handlers = Vec::new();
    for (name, runtime) in at {
        let runtime = runtime.as_table().ok_or_else(|| wrong(name, "table"))?;
        for (key, want) in [("runtime_type", "string"), ("runtime_path", "string")] {
            if runtime.get(key).is_some_and(|v| v.as_str().is_none()) {
                return Err(wrong(&format!("{name}.{key}"), want));
            }
        }
        if runtime.get("privileged_without_host_devices").is_some_and(|v| v.as_bool().is_none()) {
            return Err(wrong(&format!("{name}.privileged_without_host_devices"), "boolean"));
        }
        if runtime.get("pod_annotations").is_some_and(|v| v.as_array().is_none()) {
            return Err(wrong(&format!("{name}.pod_annotations"), "list"));
        }
        handlers.push(name.clone());
    }
    Ok(handlers)
}

/// config.toml as k3s renders it.
fn rendered(data: &str, run: &str) -> String {
    include_str!("../../fixtures/containerd-config-rendered.toml")
        .replace("/var/lib/rancher/k3s", data)
        .replace("/run/k3s/containerd", run)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KATA: &str = "version = 3\n\
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu]\n\
        runtime_type = \"io.containerd.kata-qemu.v2\"\n\
        privileged_without_host_devices = true\n";

    fn read(text: &str) -> Result<Vec<String>, ContainerdError> {
        drop_in(Path::new("kata.toml"), text)
    }

    #[test]
    fn a_kata_drop_in_adds_its_handler() {
        assert_eq!(read(KATA).unwrap(), ["kata-qemu"]);
    }

    #[test]
    fn a_duplicate_table_is_refused() {
        assert!(matches!(
            read(&format!("{KATA}{}", KATA.replace("version = 3\n", ""))),
            Err(ContainerdError::Toml { .. })
        ));
    }

    #[test]
    fn a_wrong_version_is_refused() {
        assert!(matches!(read("version = 9\n"), Err(ContainerdError::Version { .. })));
        assert!(read("version = 2\n").is_ok());
    }

    #[test]
    fn a_wrong_type_is_refused() {
        let bad = KATA.replace("= true", "= \"yes\"");
        assert!(matches!(read(&bad), Err(ContainerdError::Type { .. })));
        assert!(matches!(read("imports = \"x\"\n"), Err(ContainerdError::Type { .. })));
    }

    #[test]
    fn the_rendered_config_names_its_drop_in_directory() {
        let text = rendered("/x/var/lib/rancher/k3s", "/run/k3s/containerd");
        assert!(
            text.contains(
                "imports = [\"/x/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml\"]"
            )
        );
        assert!(toml::from_str::<toml::Table>(&text).is_ok());
    }

    #[test]
    fn the_shutdown_text_is_the_recorded_one() {
        let recorded = include_str!("../../fixtures/logs/texts.txt");
        let line = format!("Shutdown request received: {:?}", ContainerdError::shutdown_text());
        assert!(recorded.contains(&line.replace('"', "\\\"")));
    }
}
