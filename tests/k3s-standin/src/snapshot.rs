//! `k3s etcd-snapshot save|ls|delete`: the datastore as etcd streams it, in db/snapshots/<name>-<node>-<unix time>.

use crate::base::clock::{rfc3339, unix_now};
use crate::base::log;
use crate::base::log::say;
use crate::base::paths::{Paths, write};
use crate::base::settings::{Settings, Written};
use crate::etcd::gateway::Gateway;
use crate::kubelet::machine;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Keys of config.yaml that this command knows too; of every other it warns, once a value (k3s: pkg/cli/cmds/etcd_snapshot.go).
const KNOWN: &[&str] = &[
    "debug",
    "data-dir",
    "etcd-s3",
    "etcd-snapshot-compress",
    "etcd-snapshot-dir",
    "etcd-snapshot-retention",
    "node-name",
];

/// Exit status.
pub async fn run(args: &[String], written: &Written, paths: &Paths) -> i32 {
    match try_run(args, written, paths).await {
        Ok(()) => 0,
        Err(e) => {
            log::fatal(&format!("Error: {e:#}"));
            1
        }
    }
}

async fn try_run(args: &[String], written: &Written, paths: &Paths) -> anyhow::Result<()> {
    let settings = Settings::meant(written)?;
    for (key, values) in written.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str())) {
        for _ in values {
            log::warn(&format!("Unknown flag --{key} found in config.yaml, skipping\n"));
        }
    }
    let flag = |name: &str| {
        let long = format!("--{name}=");
        let inline = args.iter().find_map(|a| a.strip_prefix(long.as_str()).map(str::to_owned));
        let at = args.iter().position(|a| *a == format!("--{name}"));
        inline.or_else(|| args.get(at? + 1).cloned())
    };
    match args.first().map(String::as_str) {
        Some("save") => save(&flag("name").unwrap_or_else(|| "on-demand".to_owned()), &settings, paths).await,
        Some("ls" | "list") => {
            let output =
                flag("output").or_else(|| args.windows(2).find(|w| w[0] == "-o").map(|w| w[1].clone()));
            list(output.as_deref(), &settings, paths)
        }
        Some("delete") => match args.get(1) {
            Some(name) if !name.contains('/') => {
                std::fs::remove_file(paths.snapshots().join(name)).with_context(|| format!("deleting {name}"))
            }
            Some(_) | None => bail!("delete needs the name of one snapshot"),
        },
        Some(other) => bail!("the stand-in has no etcd-snapshot {other}"),
        None => bail!("usage: k3s etcd-snapshot save|ls|delete"),
    }
}

async fn save(name: &str, settings: &Settings, paths: &Paths) -> anyhow::Result<()> {
    if name.contains('/') {
        bail!("a snapshot's name has no slash");
    }
    let node = settings.node_name.clone().unwrap_or_else(machine::hostname);
    let file = format!("{name}-{node}-{}", unix_now());
    log::info(&format!("Saving etcd snapshot to {}", paths.snapshots().join(&file).display()));
    let bytes = Gateway::open(paths)?.snapshot().await.context("etcd-snapshot")?;
    if bytes.is_empty() {
        bail!("etcd sent an empty snapshot");
    }
    write(&paths.snapshots().join(&file), 0o600, &bytes)?;
    log::info(&format!("Snapshot {file} saved."));
    Ok(())
}

fn list(output: Option<&str>, settings: &Settings, paths: &Paths) -> anyhow::Result<()> {
    let node = settings.node_name.clone().unwrap_or_else(machine::hostname);
    let mut names: Vec<String> = match std::fs::read_dir(paths.snapshots()) {
        Ok(dir) => dir.flatten().filter_map(|e| e.file_name().into_string().ok()).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    names.retain(|n| !n.ends_with(".new"));
    names.sort();
    let objects: Vec<Value> =
        names.iter().filter_map(|n| object(n, &paths.snapshots().join(n), &node)).collect();
    match output {
        Some("json") => {
            say!("{:#}", json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": objects}));
        }
        Some(other) => bail!("the stand-in has no output format {other}"),
        None => {
            say!("Name Location Size Created");
            for o in &objects {
                say!(
                    "{} {} {} {}",
                    o["spec"]["snapshotName"].as_str().unwrap_or_default(),
                    o["spec"]["location"].as_str().unwrap_or_default(),
                    o["status"]["size"].as_str().unwrap_or_default(),
                    o["status"]["creationTime"].as_str().unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}

/// As `ls -o json` prints one for a snapshot on this node's disk.
fn object(name: &str, file: &Path, node: &str) -> Option<Value> {
    let meta = std::fs::metadata(file).ok()?;
    let made = rfc3339(u64::try_from(meta.mtime()).ok()?);
    Some(json!({
        "kind": "ETCDSnapshotFile", "apiVersion": "k3s.cattle.io/v1",
        "metadata": {"name": format!("local-{name}"),
                     "labels": {"etcd.k3s.cattle.io/snapshot-storage-node": node}},
        "spec": {"snapshotName": name, "nodeName": node, "location": format!("file://{}", file.display())},
        "status": {"size": meta.len().to_string(), "creationTime": made, "readyToUse": true},
    }))
}
