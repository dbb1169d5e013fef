//! `--cluster-reset [--cluster-reset-restore-path=…]`: one member again; with a snapshot on real etcdutl. A person's verb.

use crate::base::{clock, log};
use crate::etcd::config::{Initial, Member};
use crate::server::bootstrap::{bundle, datastore_key, unpack};
use crate::server::state::K3s;
use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// Before etcd: with a snapshot, db/etcd goes to db/etcd-old-<unix time> and is made anew from it; the member gets a new name.
pub fn prepare(k3s: &K3s, etcd: &Path) -> anyhow::Result<()> {
    let db = k3s.paths.etcd_db();
    // the one member gets a name of its own in either case
    if let Err(e) = std::fs::remove_file(k3s.paths.name_file())
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e).context("removing db/etcd/name");
    }
    if let Some(snapshot) = &k3s.settings.restore_path {
        let etcdutl = etcd.with_file_name("etcdutl");
        if !etcdutl.is_file() {
            bail!("a restore needs etcdutl beside {}", etcd.display());
        }
        if !Path::new(snapshot).is_file() {
            bail!("etcd: snapshot path does not exist: {snapshot}");
        }
        let old = db.with_file_name(format!("etcd-old-{}", clock::unix_now()));
        if db.exists() {
            std::fs::rename(&db, &old).context("moving db/etcd aside")?;
            log::info(&format!("Pre-restore etcd database moved to {}", old.display()));
        }
        let name = crate::server::datastore::own_name(&k3s.paths.db().join("restored-name"), &k3s.node)?;
        std::fs::remove_file(k3s.paths.db().join("restored-name"))?;
        let me = Member { name: &name, ip: &k3s.ip, metrics_on_node_ip: false, debug: false };
        // a token of its own gives the restored cluster an id of its own, as seen on a real k3s
        let output = Command::new(&etcdutl)
            .args(["snapshot", "restore", snapshot, "--name", &name, "--data-dir"])
            .arg(&db)
            .args(["--initial-cluster", &format!("{name}={}", me.peer_url())])
            .args(["--initial-advertise-peer-urls", &me.peer_url()])
            .args(["--initial-cluster-token", &crate::api::objects::uuid()])
            .output()
            .context("running etcdutl")?;
        if !output.status.success() {
            bail!("etcdutl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        crate::base::paths::write(&k3s.paths.name_file(), 0o600, name.as_bytes())?;
    }
    Ok(())
}

pub fn initial(k3s: &K3s) -> Initial {
    if k3s.settings.restore_path.is_some() { Initial::FromDisk } else { Initial::ForceNew }
}

/// etcd is a cluster of one: leave the flag behind and end.
pub async fn finish(k3s: &K3s) -> anyhow::Result<()> {
    let members = k3s.gateway.members(std::time::Duration::from_secs(5)).await?;
    if members.len() != 1 {
        bail!("etcd still has {} members", members.len());
    }
    if k3s.settings.restore_path.is_some() {
        let kept = k3s.store.get(&datastore_key(&k3s.secrets.server)).await?;
        let Some(kept) = kept else {
            bail!("bootstrap data already found and encrypted with different token")
        };
        log::warn("Updating bootstrap data on disk from datastore");
        unpack(&serde_json::from_slice(&kept.value)?, &k3s.paths)?;
    }
    crate::base::paths::write(&k3s.paths.reset_flag(), 0o600, b"")?;
    Ok(())
}

/// Every ready server sees to it that the datastore, and so each snapshot, holds the cluster's CAs.
pub async fn keep_bundle(k3s: &K3s) -> anyhow::Result<()> {
    let key = datastore_key(&k3s.secrets.server);
    if k3s.store.get(&key).await?.is_none() {
        log::info("Saving cluster bootstrap data to datastore");
        k3s.store.put(&key, &bundle(&k3s.paths, &k3s.settings)?.to_string()).await?;
    }
    Ok(())
}
