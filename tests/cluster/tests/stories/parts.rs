//! Where the programs are that these stories run, or the reason why they cannot be run here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub(crate) struct Parts {
    pub(crate) muster: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) standin: PathBuf,
    pub(crate) supervisor: PathBuf,
    pub(crate) etcd: PathBuf,
}

impl Parts {
    /// None, with the reason printed, where these tests cannot run.
    pub(crate) fn found() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return skip("not root: network namespaces cannot be made");
        }
        let here = std::env::current_exe().ok()?;
        // target/debug/deps/stories-0123
        let beside = here.parent().and_then(Path::parent)?;
        let program = |name: &str| Some(beside.join(name)).filter(|path| path.exists());
        let programs =
            (program("muster"), program("muster-agent"), program("k3s-standin"), program("lab-supervisor"));
        let (Some(muster), Some(agent), Some(standin), Some(supervisor)) = programs else {
            return skip(&format!(
                "no muster, muster-agent, k3s-standin and lab-supervisor in {} (cargo build --workspace --bins)",
                beside.display()
            ));
        };
        match etcd() {
            Some(etcd) => Some(Self { muster, agent, standin, supervisor, etcd }),
            None => skip("no etcd: name one in K3S_STANDIN_ETCD"),
        }
    }
}

fn skip<T>(why: &str) -> Option<T> {
    // Not by eprintln, which the test harness keeps to itself when a test passes.
    let _told = writeln!(std::io::stderr(), "SKIPPED: cluster stories: {why}");
    None
}

fn etcd() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("K3S_STANDIN_ETCD") {
        return Some(named.into());
    }
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let cache = std::env::var_os("MUSTER_CACHE").map_or_else(|| home.join(".cache/muster"), PathBuf::from);
    let below = |folder: &str, path: &str| -> Vec<PathBuf> {
        fs::read_dir(cache.join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join(path))
            .collect()
    };
    let cached = below("etcd", "usr/bin/etcd")
        .into_iter()
        .chain(below("k3s", &format!("{}/etcd", std::env::consts::ARCH)));
    cached.chain(["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from)).find(|path| path.exists())
}
