//! etcd's life inside this process: started with its file, watched, and what follows from its end.

use crate::base::{clock, log, paths};
use crate::etcd::child::Etcd;
use crate::etcd::config::{Initial, Member};
use crate::etcd::metrics;
use crate::server::state::{End, K3s, Phase};
use k3s_model::names::member_name;
use k3s_model::texts;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::oneshot;

/// Moved-aside directories of db/etcd that are kept.
const BACKUPS: usize = 5;

/// The name in db/etcd/name, made at the first start.
pub fn own_name(file: &Path, node: &str) -> std::io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut luck = [0; 8];
            getrandom::fill(&mut luck).map_err(std::io::Error::other)?;
            let name = member_name(node, u64::from_le_bytes(luck));
            paths::write(file, 0o600, name.as_bytes())?;
            Ok(name)
        }
        Err(e) => Err(e),
    }
}

/// Tombstone found and `server:` set: db/etcd goes aside whole, and nobody is asked.
pub fn move_aside(etcd_db: &Path) -> std::io::Result<PathBuf> {
    let to = etcd_db.with_file_name(format!("etcd-backup-{}", clock::unix_now()));
    std::fs::rename(etcd_db, &to)?;
    let dir = etcd_db.parent().unwrap_or(etcd_db);
    let mut kept: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("etcd-backup-")))
        .collect();
    kept.sort();
    for old in kept.iter().rev().skip(BACKUPS) {
        std::fs::remove_dir_all(old)?;
    }
    Ok(to)
}

/// Start etcd and watch it. `stop` is sent a reply when etcd has ended for our own end.
pub fn start(
    k3s: &Rc<K3s>,
    etcd: &Path,
    initial: &Initial,
) -> std::io::Result<oneshot::Sender<oneshot::Sender<()>>> {
    let name = k3s.member_name.borrow().clone();
    let member = Member {
        name: &name,
        ip: &k3s.ip,
        metrics_on_node_ip: k3s.settings.metrics_on_node_ip,
        debug: std::env::var_os("K3S_STANDIN_ETCD_DEBUG").is_some(),
    };
    let dir = k3s.paths.etcd_db();
    let file = dir.join("config");
    paths::write(&file, 0o600, member.config(&k3s.paths, initial).as_bytes())?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
    let child = Etcd::start(etcd, &file)?;
    k3s.phase.set(Phase::Etcd);
    let (stop, stopped) = oneshot::channel();
    tokio::task::spawn_local(watch(k3s.clone(), child, stopped));
    Ok(stop)
}

async fn watch(k3s: Rc<K3s>, mut child: Etcd, stop: oneshot::Receiver<oneshot::Sender<()>>) {
    tokio::select! {
        reply = stop => {
            child.stop().await;
            if let Ok(reply) = reply {
                let _ = reply.send(());
            }
        }
        status = child.wait() => {
            // let the reader of the log come to its end, so that its last words count
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
            ended(&k3s, child.removed.get(), &status).await;
        }
    }
}

/// etcd has ended by itself.
async fn ended(k3s: &K3s, removed: bool, status: &str) {
    match (removed, k3s.listed.get()) {
        (true, true) => {
            if let Err(e) = paths::write(&k3s.paths.tombstone(), 0o600, b"") {
                log::error(&format!("cannot write the tombstone: {e}"));
            }
            log::info(texts::REMOVED);
            k3s.end(End::Silent);
        }
        // removed while it was down: the real one stays for ever with these words, without health and without a tombstone
        (true, false) => {
            k3s.phase.set(Phase::Lingering);
            log::raw(&format!(
                "{{\"level\":\"warn\",\"msg\":\"server error\",\"error\":{:?}}}",
                texts::PERMANENTLY_REMOVED
            ));
            log::raw(&format!("{{\"level\":\"warn\",\"msg\":{:?}}}", texts::DATA_DIR_MUST_GO));
            metrics::stand_in_for_removed().await;
        }
        (false, _) => k3s.end(End::Fatal(format!("etcd exited: {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_backups_are_kept() {
        let db = tempfile::tempdir().unwrap();
        let db = db.path();
        for n in 1..=6 {
            std::fs::create_dir_all(db.join(format!("etcd-backup-100000000{n}"))).unwrap();
        }
        std::fs::create_dir_all(db.join("etcd")).unwrap();
        let to = move_aside(&db.join("etcd")).unwrap();
        assert!(to.exists() && !db.join("etcd").exists());
        assert_eq!(std::fs::read_dir(db).unwrap().count(), BACKUPS);
    }

    #[test]
    fn a_member_name_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("name");
        let name = own_name(&file, "mini-pc-1").unwrap();
        assert!(name.starts_with("mini-pc-1-") && name.len() == "mini-pc-1-".len() + 8);
        assert_eq!(own_name(&file, "mini-pc-1").unwrap(), name);
    }
}
