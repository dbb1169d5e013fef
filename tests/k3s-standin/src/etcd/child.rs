//! etcd as a child process that dies with us, even when we are killed: real k3s has etcd in its own process.
//!
//! We start ourselves as `etcd-child`, which asks the kernel for that death and becomes etcd.

use crate::base::log;
use k3s_model::texts;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The running etcd.
pub struct Etcd {
    child: Child,
    /// Its log said that this member was removed.
    pub removed: Rc<Cell<bool>>,
}

impl Etcd {
    pub fn start(etcd: &Path, config_file: &Path) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("etcd-child")
            .arg(std::process::id().to_string())
            .arg(etcd)
            .arg(config_file)
            .env_remove("NOTIFY_SOCKET")
            .env("GOMAXPROCS", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let removed = Rc::new(Cell::new(false));
        if let Some(stderr) = child.stderr.take() {
            let removed = removed.clone();
            tokio::task::spawn_local(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.contains(texts::PERMANENTLY_REMOVED) {
                        removed.set(true);
                    }
                    log::raw(&line);
                }
            });
        }
        Ok(Self { child, removed })
    }

    /// Wait for its end, whatever the cause.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// SIGTERM, and after five seconds SIGKILL.
    pub async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            log::info("Stopping etcd server...");
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
            log::info("etcd server stopped");
        }
    }
}

/// The hidden subcommand `etcd-child PARENT ETCD CONFIG`. Returns only if it failed.
pub fn become_etcd(args: &[String]) -> std::io::Error {
    match args {
        [parent, etcd, config] => {
            become_child(&[parent.clone(), etcd.clone(), "--config-file".to_owned(), config.clone()])
        }
        _ => std::io::Error::other("usage: etcd-child PARENT ETCD CONFIG"),
    }
}

/// `PARENT PROGRAM ARGS…`: become PROGRAM, to be killed when PARENT dies. Returns only if it failed.
pub fn become_child(args: &[String]) -> std::io::Error {
    let [parent, program, rest @ ..] = args else {
        return std::io::Error::other("usage: PARENT PROGRAM [ARGS]");
    };
    if let Err(e) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return e.into();
    }
    // the parent may have died before the kernel knew our wish
    if getppid().to_string() != *parent {
        return std::io::Error::other("the parent is gone");
    }
    let failed = std::process::Command::new(program).args(rest).exec();
    std::io::Error::new(failed.kind(), format!("{program}: {failed}"))
}
