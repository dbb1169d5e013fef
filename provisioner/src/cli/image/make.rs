//! What is asked for becomes files in the state directory and rows for the register.

use super::Build;
use crate::cli::status::now_unix_ms;
use crate::config::meant::Config;
use crate::image::{base, compose, pack};
use crate::store::artifacts::{self, put_bytes, put_file};
use crate::store::keys::read_trust;
use crate::store::partial::Partial;
use crate::store::rows::{ArtifactFile, ArtifactKind, ArtifactRow};
use crate::store::state_dir::StateDir;
use anyhow::Context;
use muster_protocol::ids::Arch;
use muster_protocol::wire;
use serde::Deserialize;
use std::io::{BufReader, BufWriter, IntoInnerError, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) fn make(build: &Build, config: &Config, state: &StateDir) -> anyhow::Result<Vec<ArtifactRow>> {
    let folder = state.artifacts();
    let mut rows = Vec::new();
    if let (Some(netboot), Some(agent)) = (&build.netboot, &build.agent) {
        rows.extend(boot_image(build, netboot, agent, state)?);
    }
    if let Some(image) = &build.node_image {
        rows.push(node_image(build, image, &folder)?);
    }
    if let Some(archive) = &build.kata {
        let version = config.kata.as_ref().map(|kata| kata.version.clone());
        let version = version
            .context("cluster.toml has no [kata] section, so there is no version to register it for")?;
        let file = put_file(&folder, archive, "kata.tar.zst", 0o644)?;
        let stand_in = stand_in(build, archive.parent())?;
        for arch in archs_of_name(build.arch, archive) {
            let files = vec![file.clone()];
            rows.push(ArtifactRow {
                stand_in: stand_in.clone(),
                ..row(ArtifactKind::Kata, arch, &version, files)
            });
        }
    }
    if let Some(source) = &build.k3s {
        for (arch, source) in k3s_folders(build.arch, source)? {
            let mut files = Vec::new();
            add_files(&folder, &source, Path::new(""), &mut files)?;
            anyhow::ensure!(
                files.iter().any(|file| file.path == "k3s"),
                "`{}` has no file `k3s`",
                source.display()
            );
            let stand_in = stand_in(build, Some(&source))?;
            rows.push(ArtifactRow { stand_in, ..row(ArtifactKind::K3s, arch, &config.k3s.version, files) });
        }
    }
    Ok(rows)
}

fn row(kind: ArtifactKind, arch: Arch, version: &str, files: Vec<ArtifactFile>) -> ArtifactRow {
    ArtifactRow {
        kind,
        arch,
        version: version.into(),
        files,
        kernel_release: None,
        stand_in: None,
        registered_unix_ms: now_unix_ms(),
    }
}

/// Boot image and boot loader.
fn boot_image(
    build: &Build,
    netboot: &Path,
    agent: &Path,
    state: &StateDir,
) -> anyhow::Result<[ArtifactRow; 2]> {
    let base = base::read(netboot)?;
    let arch = base.arch;
    let asked = build.arch.unwrap_or(arch);
    anyhow::ensure!(
        arch == asked,
        "`{}` holds base parts for {arch}, asked was for {asked}",
        netboot.display()
    );
    let program = std::fs::read(agent).with_context(|| format!("cannot read `{}`", agent.display()))?;
    anyhow::ensure!(
        elf_arch(&program) == Some(arch),
        "`{}` is not a program for {arch}\nhint: scripts/build-static.sh {arch} agent",
        agent.display()
    );
    let trust = wire::encode(&read_trust(&state.trust())?);
    let version = env!("CARGO_PKG_VERSION");
    let own =
        compose::Own { agent: &program, trust: &trust, version, command_line: build.cmdline.as_deref() };
    let uki = compose::boot_image(&base, &own)?;
    let folder = state.artifacts();
    let uki = put_bytes(&folder, &uki, &format!("boot-{arch}.efi"), 0o644)?;
    let loader = put_bytes(&folder, &base.loader, "systemd-boot.efi", 0o644)?;
    let of = |kind, file| ArtifactRow {
        kernel_release: Some(base.kernel_release.clone()),
        ..row(kind, arch, version, vec![file])
    };
    Ok([of(ArtifactKind::Uki, uki), of(ArtifactKind::Loader, loader)])
}

/// The machine that an ELF program is for (`e_machine`).
fn elf_arch(program: &[u8]) -> Option<Arch> {
    match (program.get(..4)?, program.get(18..20)?) {
        (b"\x7fELF", [62, 0]) => Some(Arch::X86_64),
        (b"\x7fELF", [183, 0]) => Some(Arch::Aarch64),
        _ => None,
    }
}

/// Upstream names its archives by Go's words for the architectures.
fn archs_of_name(asked: Option<Arch>, file: &Path) -> Vec<Arch> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match asked {
        Some(arch) => vec![arch],
        None if says(&["amd64", "x86_64"]) => vec![Arch::X86_64],
        None if says(&["arm64", "aarch64"]) => vec![Arch::Aarch64],
        None => Arch::ALL.to_vec(),
    }
}

/// One folder per architecture, or one whose program says whose it is.
fn k3s_folders(asked: Option<Arch>, source: &Path) -> anyhow::Result<Vec<(Arch, PathBuf)>> {
    let own = |arch: &Arch| (*arch, source.join(arch.word()));
    let folders: Vec<(Arch, PathBuf)> = Arch::ALL.iter().map(own).filter(|(_, path)| path.is_dir()).collect();
    if !folders.is_empty() {
        let wanted = folders.into_iter().filter(|(arch, _)| asked.is_none_or(|asked| asked == *arch));
        let wanted: Vec<_> = wanted.collect();
        if let (Some(asked), true) = (asked, wanted.is_empty()) {
            anyhow::bail!("`{}` has no folder `{}`, which was asked for", source.display(), asked.word());
        }
        return Ok(wanted);
    }
    let program = source.join("k3s");
    let mut head = Vec::new();
    let file =
        std::fs::File::open(&program).with_context(|| format!("cannot open `{}`", program.display()))?;
    file.take(64).read_to_end(&mut head)?;
    match (asked, elf_arch(&head)) {
        (Some(asked), Some(arch)) if asked != arch => {
            anyhow::bail!("`{}` is a program for {arch}, asked was for {asked}", program.display())
        }
        (_, Some(arch)) => Ok(vec![(arch, source.into())]),
        // A script runs anywhere.
        (asked, None) => Ok(asked
            .map_or_else(|| Arch::ALL.to_vec(), |arch| vec![arch])
            .into_iter()
            .map(|arch| (arch, source.into()))
            .collect()),
    }
}

/// What `images/node/build.sh` says of its result.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    arch: Option<Arch>,
    kernel_release: Option<String>,
    version: Option<String>,
}

fn node_image(build: &Build, image: &Path, folder: &Path) -> anyhow::Result<ArtifactRow> {
    let beside = image.with_file_name("manifest.json");
    let manifest: Manifest = match std::fs::read(&beside) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("cannot read `{}`", beside.display()))?
        }
        Err(_) => Manifest::default(),
    };
    let hint = "or manifest.json beside the image";
    let arch = build.arch.or(manifest.arch);
    let arch =
        arch.with_context(|| format!("the node image's architecture is not known\nhint: --arch, {hint}"))?;
    let release = build.kernel_release.clone().or(manifest.kernel_release);
    let release = release.with_context(|| {
        format!("the node image's kernel release is not known\nhint: --kernel-release, {hint}")
    })?;
    let version = build.image_version.clone().or(manifest.version);
    let version = version
        .with_context(|| format!("the node image's version is not known\nhint: --image-version, {hint}"))?;
    let about = pack::About { arch, version: version.clone(), kernel_release: release.clone() };
    let raw = std::fs::File::open(image).with_context(|| format!("cannot open `{}`", image.display()))?;
    let mut packed = BufWriter::with_capacity(1 << 20, Partial::create(folder)?);
    let index = pack::pack(about, &mut BufReader::with_capacity(1 << 20, raw), &mut packed)?;
    packed
        .into_inner()
        .map_err(IntoInnerError::into_error)?
        .persist(&artifacts::path(folder, &index.blob))?;
    let blob = ArtifactFile { path: "blob".into(), mode: 0o644, digest: index.blob, bytes: index.blob_bytes };
    let index = put_bytes(folder, &wire::encode(&index), "index", 0o644)?;
    Ok(ArtifactRow {
        kernel_release: Some(release),
        ..row(ArtifactKind::NodeImage, arch, &version, vec![index, blob])
    })
}

const STAND_IN: &str = "STAND-IN";

fn stand_in(build: &Build, folder: Option<&Path>) -> anyhow::Result<Option<String>> {
    if build.stand_in.is_some() {
        return Ok(build.stand_in.clone());
    }
    let Some(path) = folder.map(|folder| folder.join(STAND_IN)).filter(|path| path.exists()) else {
        return Ok(None);
    };
    let mut text = String::new();
    std::fs::File::open(&path)?.take(1000).read_to_string(&mut text)?;
    Ok(Some(text.trim().to_string()).filter(|text| !text.is_empty()))
}

/// Every regular file below `source`, under its path there.
fn add_files(
    folder: &Path,
    source: &Path,
    below: &Path,
    files: &mut Vec<ArtifactFile>,
) -> anyhow::Result<()> {
    let here = source.join(below);
    let entries = std::fs::read_dir(&here).with_context(|| format!("cannot read `{}`", here.display()))?;
    let mut names: Vec<_> =
        entries.collect::<Result<Vec<_>, _>>()?.iter().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let below = below.join(&name);
        let path = source.join(&below);
        // Followed: a cache may be made of links.
        let metadata =
            std::fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if metadata.is_dir() {
            add_files(folder, source, &below, files)?;
        } else if metadata.is_file() && name != STAND_IN {
            let text = below
                .to_str()
                .with_context(|| format!("`{}` has a name that is not UTF-8", path.display()))?;
            files.push(put_file(folder, &path, text, metadata.permissions().mode() & 0o777)?);
        }
    }
    Ok(())
}
