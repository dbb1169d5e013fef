//! Where the built parts lie: binaries in `target/dist`, the large ones in the cache, newest build of each.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Arguments for `muster image build`, one command each.
pub(crate) type Build = Vec<String>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeManifest {
    #[serde(alias = "release")]
    kernel_release: String,
    version: String,
}

pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MUSTER_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither MUSTER_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/muster"))
}

pub(crate) fn muster(bin: &Path) -> Result<PathBuf> {
    let file = bin.join(format!("muster-{}", std::env::consts::ARCH));
    ensure!(file.is_file(), "{} is missing\nhint: make dist", file.display());
    Ok(std::path::absolute(file)?)
}

/// What to register for these architectures: one command each.
pub(crate) fn builds(
    bin: &Path,
    arches: &[&str],
    k3s_version: &str,
    kata_version: &str,
) -> Result<Vec<Build>> {
    let cache = cache()?;
    let mut out = Vec::new();
    for &arch in arches {
        let mut build = boot_image(bin, arch)?;
        let node = newest(&cache.join("node"), arch, "manifest.json")?;
        let text = std::fs::read(node.join("manifest.json"))?;
        let manifest: NodeManifest =
            serde_json::from_slice(&text).with_context(|| node.display().to_string())?;
        let mut option = |name: &str, value: String| build.extend([name.to_owned(), value]);
        option("--node-image", node.join("root.ext4").display().to_string());
        option("--kernel-release", manifest.kernel_release);
        option("--image-version", manifest.version);
        let k3s = cache.join("k3s").join(k3s_version).join(arch);
        ensure!(
            k3s.is_dir(),
            "{} is missing\nhint: images/lab/k3s-standin.sh lays the stand-in out there",
            k3s.display()
        );
        option("--k3s", k3s.display().to_string());
        let kata = cache.join("kata").join(kata_version).join(arch).join("kata.tar.zst");
        ensure!(kata.is_file(), "{} is missing\nhint: images/lab/kata.sh makes one", kata.display());
        option("--kata", kata.display().to_string());
        out.push(build);
    }
    Ok(out)
}

/// Only what a machine boots over the network.
pub(crate) fn boot_image(bin: &Path, arch: &str) -> Result<Build> {
    let agent = bin.join(format!("muster-agent-{arch}"));
    ensure!(agent.is_file(), "{} is missing\nhint: make dist", agent.display());
    let netboot = newest(&cache()?.join("netboot"), arch, "manifest.json")?;
    let agent = std::path::absolute(&agent)?.display().to_string();
    let netboot = netboot.display().to_string();
    Ok(["image", "build", "--arch", arch, "--netboot", &netboot, "--agent", &agent].map(String::from).into())
}

/// The newest finished build `<arch>-<key>` in a folder of the cache.
fn newest(folder: &Path, arch: &str, proof: &str) -> Result<PathBuf> {
    let prefix = format!("{arch}-");
    pick(folder, |path, name| name.starts_with(&prefix) && path.join(proof).is_file())
        .with_context(|| format!("no {arch} build in {}\nhint: make images", folder.display()))
}

fn pick(folder: &Path, fits: impl Fn(&Path, &str) -> bool) -> Option<PathBuf> {
    let age =
        |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| fits(&entry.path(), name)))
        .map(|entry| entry.path())
        .max_by_key(age)
}
