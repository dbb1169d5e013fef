//! Kata Containers put in place by the agent before k3s first starts, so that nothing ever restarts for it.
//!
//! Archive by digest, unpacked beside, flushed, renamed; the link `current` switched by one rename; containerd told by
//! one drop-in file of ours. A second run changes nothing, and whatever a crash left is healed by the next.

/// The archive's entries.
pub mod tar;
/// Archive into folder.
pub mod unpack;

use crate::durable::make_folder;
use crate::node::fetch::{FetchError, Fetcher};
use crate::node::versions::{Version, VersionError};
use crate::state::{Root, StateError};
use muster_protocol::manifest::Kata;
use muster_protocol::status::KataSeen;
use std::fs::{self, File, OpenOptions};
use std::io::BufReader;
use unpack::{Contents, UnpackError, unpack};

pub const BASE: &str = "/var/lib/muster/kata";
const CONTAINERD: &str = "/var/lib/rancher/k3s/agent/etc/containerd";
const MODULES: &str = "/run/modules-load.d/50-muster-kata.conf";
/// What Kata's guests need of the host kernel (facts: Kata §1).
const MODULE_NAMES: &[&str] = &["vhost_vsock", "vhost_net", "kvm_intel", "kvm_amd"];
/// The first minor version of Kubernetes whose k3s reads drop-ins (k3s PR 13680); older ones need a template.
const DROP_IN_SINCE: (u32, u32) = (1, 36);

/// The handler's tables; `version` must be the root file's.
const TABLES: &str = r#"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu-runtime-rs]
runtime_type = "io.containerd.kata-qemu-runtime-rs.v2"
runtime_path = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
privileged_without_host_devices = true
pod_annotations = ["io.katacontainers.*"]
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu-runtime-rs.options]
ConfigPath = "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration-qemu-runtime-rs.toml"
"#;

#[derive(Debug, thiserror::Error)]
pub enum KataError {
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("cannot fetch the Kata archive")]
    Fetch(#[from] FetchError),
    #[error("Kata is not in place and there is no provisioner to fetch it from yet")]
    NoSource,
    #[error("cannot unpack the Kata archive")]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot open the Kata archive")]
    Open(#[source] std::io::Error),
    #[error(
        "there is another containerd template at {path}\nhint: add the kata-qemu-runtime-rs tables to it by hand, or remove it"
    )]
    ForeignTemplate { path: String },
}

/// Whether anything was done; on a second run nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlace {
    pub changed: bool,
    pub current: bool,
}

/// `may_replace`: whether another version that is current may be replaced; on a node that runs, only an upgrade may.
pub fn put_in_place(
    root: &Root,
    kata: &Kata,
    k3s_version: &str,
    source: Option<&mut Fetcher<'_>>,
    may_replace: bool,
) -> Result<InPlace, KataError> {
    let version = Version::new(root.path(BASE), &kata.version)?;
    let complete = Contents::read(&version.path())
        .is_some_and(|contents| contents.archive == kata.archive && contents.holds(&version.path()));
    let archive_path = format!("{BASE}/{}.archive", kata.version);
    if !complete {
        make_folder(&root.path(BASE))
            .map_err(|source| StateError::Write { path: root.path(BASE), source })?;
        let archive = root.path(&archive_path);
        match source {
            Some(source) => source.fetch(kata.archive, kata.archive_bytes, &archive)?,
            // It came whole before the machine was cut off; unpacking compares its digest.
            None if fs::metadata(&archive).is_ok_and(|found| found.len() == kata.archive_bytes) => {}
            None => return Err(KataError::NoSource),
        }
        version.clear_partial()?;
        let partial = version.open_partial()?;
        let file = File::open(&archive).map_err(KataError::Open)?;
        unpack(kata.archive, BufReader::with_capacity(256 << 10, file), &partial)?;
        version.complete()?;
    }
    // Also what a cut left behind.
    root.remove(&archive_path)?;
    version.clear_damaged()?;
    let was_current = version.is_current();
    let current = version.switch(may_replace)?;
    let told = tell_containerd(root, k3s_version)?;
    let modules: String = MODULE_NAMES.iter().map(|name| format!("{name}\n")).collect();
    root.write_if_other(MODULES, modules.as_bytes(), 0o644)?;
    Ok(InPlace { changed: !complete || told || (current && !was_current), current })
}

/// Whether the next start of k3s finds a Kata, of whatever version.
pub fn is_there(root: &Root) -> bool {
    Version::current(&root.path(BASE)).is_some()
}

/// The evidence for `ready`. `files` was found by the last full look, which reads every file.
pub fn look(root: &Root, k3s_version: &str, files: bool, in_place_ms: u64) -> Option<KataSeen> {
    let version = Version::current(&root.path(BASE))?;
    let (path, text) = containerd_file(k3s_version);
    let written = root.read(&path).ok().flatten().is_some_and(|found| found == text.as_bytes());
    // Once k3s has run, what it rendered must lead to our file (facts: Kata §2); before that there is nothing to read.
    let rendered = root.read(&format!("{CONTAINERD}/config.toml")).ok().flatten();
    let read = rendered.is_none_or(|rendered| {
        let rendered = String::from_utf8_lossy(&rendered);
        rendered.contains("config-v3.toml.d") || rendered.contains("kata-qemu-runtime-rs")
    });
    let kvm = OpenOptions::new().read(true).write(true).open(root.path("/dev/kvm")).is_ok();
    Some(KataSeen { version, files, kvm, in_place_ms, handler: written && read })
}

/// Reads every file of the current version against its list.
pub fn files_hold(root: &Root) -> bool {
    let current = root.path(BASE).join("current");
    let Ok(folder) = fs::canonicalize(current) else { return false };
    Contents::read(&folder).is_some_and(|contents| contents.holds(&folder))
}

/// Loads the modules now; `modules-load.d` is for who looks later. Absent ones are built in or for another CPU.
pub async fn load_modules(root: &Root) {
    if !root.is_system() {
        return;
    }
    for name in MODULE_NAMES {
        let loaded = tokio::process::Command::new("modprobe").args(["-q", name]).status().await;
        if !loaded.is_ok_and(|status| status.success()) {
            tracing::debug!(module = name, "not loaded");
        }
    }
}

fn tell_containerd(root: &Root, k3s_version: &str) -> Result<bool, KataError> {
    let (path, text) = containerd_file(k3s_version);
    let template = format!("{CONTAINERD}/config-v3.toml.tmpl");
    if path == template
        && let Some(found) = root.read(&template)?
        && found != text.as_bytes()
        && !found.starts_with(MADE_BY.as_bytes())
    {
        return Err(KataError::ForeignTemplate { path: template });
    }
    Ok(root.write_if_other(&path, text.as_bytes(), 0o644)?)
}

const MADE_BY: &str = "# Written by muster-agent; k3s reads it at each start.\n";

/// Path and text of what tells containerd, by the version of k3s.
fn containerd_file(k3s_version: &str) -> (String, String) {
    if minor(k3s_version).is_none_or(|found| found >= DROP_IN_SINCE) {
        (format!("{CONTAINERD}/config-v3.toml.d/50-kata.toml"), format!("{MADE_BY}version = 3\n{TABLES}"))
    } else {
        let base = "{{ template \"base\" . }}\n\n";
        (format!("{CONTAINERD}/config-v3.toml.tmpl"), format!("{MADE_BY}{base}{TABLES}"))
    }
}

/// `v1.36.3+k3s1` → (1, 36).
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
pub(crate) mod testing {
    /// One ustar header.
    pub(crate) fn header(path: &str, kind: char, size: usize, link: &str) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000755\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[156] = kind as u8;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    /// Path, kind, and text or link target.
    pub(crate) fn tar(entries: &[(&str, char, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, text) in entries {
            let is_link = matches!(kind, '1' | '2');
            let (body, link) = if is_link { ("", *text) } else { (*text, "") };
            bytes.extend(header(path, *kind, body.len(), link));
            bytes.extend(body.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{tar, zst};
    use super::*;
    use crate::node::fetch::tests::Shelf;
    use crate::node::testing::scratch;
    use muster_protocol::ids::Digest;
    use muster_protocol::manifest::KataRequire;
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    const K3S: &str = "v1.36.3+k3s1";
    const SHIM: &str = "opt/kata/runtime-rs/bin/containerd-shim-kata-v2";

    fn archive(version: &str) -> (Kata, Vec<u8>) {
        let bytes = zst(&tar(&[(SHIM, '0', &format!("shim {version}")), ("opt/kata/VERSION", '0', version)]));
        let kata = Kata {
            version: version.into(),
            archive: Digest::of(&bytes),
            archive_bytes: bytes.len() as u64,
            require: KataRequire::Files,
            stand_in: None,
        };
        (kata, bytes)
    }

    fn run(root: &Root, kata: &Kata, shelf: &mut Shelf, may_replace: bool) -> Result<InPlace, KataError> {
        let mut source = Fetcher { source: shelf, progress: &mut |_, _| {} };
        put_in_place(root, kata, K3S, Some(&mut source), may_replace)
    }

    /// Every name with its inode and time of change.
    fn snapshot(folder: &Path, into: &mut BTreeMap<String, (u64, i64, i64)>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let facts = entry.path().symlink_metadata().unwrap();
            let key = entry.path().display().to_string();
            into.insert(key, (facts.ino(), facts.ctime(), facts.ctime_nsec()));
            if facts.is_dir() {
                snapshot(&entry.path(), into);
            }
        }
    }

    fn all(root: &Root) -> BTreeMap<String, (u64, i64, i64)> {
        let mut found = BTreeMap::new();
        snapshot(root.as_path(), &mut found);
        found
    }

    #[test]
    fn a_second_run_changes_no_inode_and_asks_for_nothing() {
        let root = scratch();
        let (kata, bytes) = archive("4.1.0");
        let mut shelf = Shelf::new(vec![bytes]);
        assert_eq!(run(&root, &kata, &mut shelf, false).unwrap(), InPlace { changed: true, current: true });
        let before = all(&root);
        let asked = shelf.asked;
        assert_eq!(run(&root, &kata, &mut shelf, false).unwrap(), InPlace { changed: false, current: true });
        assert!(!put_in_place(&root, &kata, K3S, None, false).unwrap().changed);
        assert_eq!(all(&root), before);
        assert_eq!(shelf.asked, asked);
        let seen = look(&root, K3S, files_hold(&root), 7).unwrap();
        assert_eq!((seen.version.as_str(), seen.files, seen.handler), ("4.1.0", true, true));
        let shim = root.path("/var/lib/muster/kata/current/runtime-rs/bin/containerd-shim-kata-v2");
        assert_eq!(fs::read(shim).unwrap(), b"shim 4.1.0");
        assert!(!root.path(&format!("{BASE}/4.1.0.archive")).exists());
    }

    #[test]
    fn every_state_a_crash_can_leave_is_healed() {
        let (kata, bytes) = archive("4.1.0");
        let shelf = || Shelf::new(vec![bytes.clone()]);
        let base = |root: &Root| root.path(BASE);
        type Crash<'a> = &'a dyn Fn(&Root);
        let crashes: &[Crash<'_>] = &[
            &|root| drop(fs::write(base(root).join("4.1.0.archive"), &bytes[..10])),
            &|root| {
                drop(fs::write(
                    base(root).join("4.1.0.archive"),
                    b"other bytes, and too many of them".repeat(50),
                ))
            },
            &|root| {
                make_folder(&base(root).join("4.1.0.partial/runtime-rs")).unwrap();
                fs::write(base(root).join("4.1.0.partial/runtime-rs/bin"), "half").unwrap();
            },
            &|root| {
                run(root, &kata, &mut shelf(), false).unwrap();
                fs::remove_file(base(root).join("current")).unwrap();
            },
            &|root| {
                run(root, &kata, &mut shelf(), false).unwrap();
                fs::remove_file(base(root).join("4.1.0/VERSION")).unwrap();
            },
            &|root| {
                run(root, &kata, &mut shelf(), false).unwrap();
                fs::rename(base(root).join("4.1.0"), base(root).join("4.1.0.damaged")).unwrap();
            },
            &|root| {
                run(root, &kata, &mut shelf(), false).unwrap();
                fs::remove_file(root.path(&format!("{CONTAINERD}/config-v3.toml.d/50-kata.toml"))).unwrap();
            },
        ];
        for (at, crash) in crashes.iter().enumerate() {
            let root = scratch();
            make_folder(&base(&root)).unwrap();
            crash(&root);
            assert!(run(&root, &kata, &mut shelf(), false).unwrap().changed, "{at}");
            assert!(files_hold(&root), "{at}");
            assert!(look(&root, K3S, true, 0).unwrap().handler, "{at}");
            assert!(!run(&root, &kata, &mut shelf(), false).unwrap().changed, "{at}");
        }
    }

    #[test]
    fn a_running_node_keeps_its_version_until_an_upgrade() {
        let root = scratch();
        let (old, old_bytes) = archive("4.1.0");
        let (new, new_bytes) = archive("4.2.0");
        let mut shelf = Shelf::new(vec![old_bytes, new_bytes]);
        run(&root, &old, &mut shelf, false).unwrap();
        assert!(!run(&root, &new, &mut shelf, false).unwrap().current);
        assert_eq!(look(&root, K3S, true, 0).unwrap().version, "4.1.0");
        assert!(run(&root, &new, &mut shelf, true).unwrap().current);
    }

    #[test]
    fn the_drop_in_is_toml_with_the_expected_tables() {
        let (path, text) = containerd_file(K3S);
        assert!(path.ends_with("config-v3.toml.d/50-kata.toml"));
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["version"].as_integer(), Some(3));
        let runtimes = &parsed["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"];
        let kata = &runtimes["kata-qemu-runtime-rs"];
        assert_eq!(kata["runtime_path"].as_str(), Some("/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"));
        assert!(kata["options"]["ConfigPath"].as_str().is_some());
    }

    #[test]
    fn an_older_k3s_gets_a_template_and_an_operator_s_own_one_stays() {
        let root = scratch();
        let (path, text) = containerd_file("v1.34.1+k3s1");
        assert!(text.contains("{{ template \"base\" . }}"));
        root.write(&path, b"{{ template \"base\" . }}\n# mine\n", 0o644).unwrap();
        let refused = tell_containerd(&root, "v1.34.1+k3s1");
        assert!(matches!(refused, Err(KataError::ForeignTemplate { .. })));
        root.remove(&path).unwrap();
        assert!(tell_containerd(&root, "v1.34.1+k3s1").unwrap());
        assert!(!tell_containerd(&root, "v1.34.1+k3s1").unwrap());
    }

    #[test]
    fn a_rendered_config_without_the_import_is_noticed() {
        let root = scratch();
        let (kata, bytes) = archive("4.1.0");
        run(&root, &kata, &mut Shelf::new(vec![bytes]), false).unwrap();
        let rendered = format!("{CONTAINERD}/config.toml");
        let recorded =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/k3s/containerd-config-rendered.toml");
        root.write(&rendered, &fs::read(recorded).unwrap(), 0o644).unwrap();
        assert!(look(&root, K3S, true, 0).unwrap().handler);
        root.write(&rendered, b"version = 3\n", 0o644).unwrap();
        assert!(!look(&root, K3S, true, 0).unwrap().handler);
    }
}
