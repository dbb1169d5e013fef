//! Where the secrets of a run turned up: all of them, with their known bytes, searched for in every byte that the run left.
//!
//! Each secret has homes, files where it may be: its own at its owner, the server token on servers' data partitions alone.
//! A hit anywhere else is a finding; only the block of a token file that its own server has since written anew is home too,
//! as long as it holds that file, byte for byte, and no other file has it. Searched are all files of the run's folder: disks (allocated or not, their journals
//! too), firmware variables, consoles, capture, logs, the provisioner's state, answers of `muster`. A secret that was cut
//! by a packet's border or compressed would not be found.

use super::disk::Data;
use crate::evidence::needles::{Hit, Needles};
use crate::fleet::Declared;
use anyhow::{Context, Result};
use nix::unistd::{Whence, lseek};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// On the data partition, which is mounted at `/var`.
const NODE_KEY: &str = "/lib/muster/node.key";
const NODE_PASSWORD: &str = "/lib/muster/etc-rancher/node/password";
const SERVER_TOKEN: &str = "/lib/rancher/k3s/server/token";
const AGENT_TOKEN: &str = "/lib/rancher/k3s/server/agent-token";
/// Where a real k3s server keeps its tokens as well.
const PASSWD: &str = "/lib/rancher/k3s/server/cred/passwd";
/// After so many findings the rest is only counted.
const TOLD: usize = 50;

/// What goes into the report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Canary {
    pub(crate) secrets: usize,
    /// Files that were searched.
    pub(crate) places: usize,
    pub(crate) bytes: u64,
    /// Hits at home.
    pub(crate) allowed: usize,
    pub(crate) found: Vec<String>,
}

impl Canary {
    pub(super) fn line(&self) -> String {
        format!(
            "{} secrets searched for in {} files, {} MB: {} times at home, {} elsewhere",
            self.secrets,
            self.places,
            self.bytes / 1_000_000,
            self.allowed,
            self.found.len()
        )
    }
}

#[derive(Debug)]
struct Secret {
    name: String,
    values: Vec<Vec<u8>>,
    /// Files of the run's folder.
    files: Vec<PathBuf>,
    /// Places on disks, by the disk's file.
    blocks: BTreeMap<PathBuf, Vec<Range<u64>>>,
    /// What the file says whose blocks these are, by the disk's file.
    texts: BTreeMap<PathBuf, Vec<u8>>,
}

impl Secret {
    fn new(name: String, values: Vec<Vec<u8>>) -> Self {
        Self { name, values, files: Vec::new(), blocks: BTreeMap::new(), texts: BTreeMap::new() }
    }

    fn is_home(&self, file: &Path, at: u64) -> bool {
        let on_disk = || self.blocks.get(file).is_some_and(|known| known.iter().any(|r| r.contains(&at)));
        self.files.iter().any(|home| home == file) || on_disk()
    }
}

/// Everything is off. `ready` machines must have the secrets that their role has, or the search proves nothing.
pub(super) fn search(folder: &Path, machines: &[Declared], ready: &dyn Fn(&str) -> bool) -> Result<Canary> {
    let mut canary = Canary::default();
    let mut disks = BTreeMap::new();
    for machine in machines {
        let file = folder.join(format!("{}.disk0", machine.name));
        if let Some(data) = Data::find(&file)? {
            disks.insert(file, (machine, data));
        }
    }
    let mut secrets = provisioners(folder)?;
    secrets.extend(nodes(folder, &disks)?);
    secrets.extend(tokens(folder, &disks)?);
    for machine in machines.iter().filter(|machine| ready(&machine.name)) {
        let disk = folder.join(format!("{}.disk0", machine.name));
        let has = |what: &str| {
            secrets.iter().any(|known| known.name.starts_with(what) && known.blocks.contains_key(&disk))
        };
        let wanted: &[&str] = match &*machine.role {
            "server" => &["node key", "server token", "agent token"],
            _ => &["node key"],
        };
        let missing = wanted.iter().filter(|what| !has(what));
        canary.found.extend(missing.map(|what| {
            format!("the {what} of {} could not be read, so its search proves nothing", machine.name)
        }));
    }
    if secrets.is_empty() {
        return Ok(canary);
    }
    canary.secrets = secrets.len();
    let values: Vec<Vec<Vec<u8>>> = secrets.iter().map(|secret| secret.values.clone()).collect();
    let needles = Needles::of(&values)
        .map_err(|n| anyhow::anyhow!("the {} is too short to search for", secrets[n].name))?;

    let mut files = Vec::new();
    walk(folder, &mut files)?;
    for file in files {
        let mut hits = Vec::new();
        canary.bytes += through(&file, &needles, &mut |hit| hits.push(hit))
            .with_context(|| format!("searching {}", file.display()))?;
        canary.places += 1;
        for hit in hits {
            let secret = &secrets[hit.secret];
            let disk = disks.get(&file).map(|(_, data)| data);
            let was_home = || match (disk, secret.texts.get(&file)) {
                (Some(data), Some(text)) => data.was(hit.at, text),
                _ => Ok(false),
            };
            if secret.is_home(&file, hit.at) || was_home()? {
                canary.allowed += 1;
            } else {
                let whose = disk.map(|data| format!(" ({})", data.whose(hit.at)));
                let name = file.strip_prefix(folder).unwrap_or(&file).display();
                canary.found.push(format!(
                    "{} stands {} in {name} at byte {}{}",
                    secret.name,
                    hit.written,
                    hit.at,
                    whose.unwrap_or_default()
                ));
            }
        }
    }
    let more = canary.found.len().saturating_sub(TOLD);
    canary.found.truncate(TOLD);
    if more > 0 {
        canary.found.push(format!("and {more} more"));
    }
    Ok(canary)
}

/// Key files of 64 hexadecimal digits: the provisioner's and the operator's.
fn provisioners(folder: &Path) -> Result<Vec<Secret>> {
    let mut out = Vec::new();
    let mut files = Vec::new();
    for place in ["provisioner/keys", "operator"] {
        let place = folder.join(place);
        if place.is_dir() {
            walk(&place, &mut files)?;
        }
    }
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "key")) {
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let seed = unhex(text.trim_ascii())
            .with_context(|| format!("{} is no key in hexadecimal", file.display()))?;
        let name = file.file_stem().unwrap_or_default().display();
        let mut secret = Secret::new(format!("{name} key"), vec![seed]);
        secret.files.push(file);
        out.push(secret);
    }
    Ok(out)
}

type Disks<'a> = BTreeMap<PathBuf, (&'a Declared, Data)>;

/// What each machine has for itself alone.
fn nodes(folder: &Path, disks: &Disks<'_>) -> Result<Vec<Secret>> {
    let mut out = Vec::new();
    for (file, (machine, data)) in disks {
        for (what, path) in [("node key", NODE_KEY), ("node password", NODE_PASSWORD)] {
            let raw = data.read(path)?;
            // a key is raw and may begin or end with a byte that looks like white space
            let value = if path == NODE_KEY { raw } else { raw.trim_ascii().to_vec() };
            if value.is_empty() {
                continue;
            }
            let mut secret = Secret::new(format!("{what} of {}", machine.name), both(value));
            secret.blocks.insert(file.clone(), data.places(path)?);
            if path == NODE_KEY {
                // the firmware's variable keeps a second copy by design, for a lost disk
                secret.files.push(folder.join(format!("{}.vars", machine.name)));
            }
            out.push(secret);
        }
    }
    Ok(out)
}

/// The cluster's two tokens: one value each, at home on every server and nowhere else.
fn tokens(folder: &Path, disks: &Disks<'_>) -> Result<Vec<Secret>> {
    let mut out = Vec::new();
    for (what, path) in [("server token", SERVER_TOKEN), ("agent token", AGENT_TOKEN)] {
        let mut secret = Secret::new(what.into(), Vec::new());
        for (file, (machine, data)) in disks.iter().filter(|(_, (machine, _))| machine.role == "server") {
            let mut text = data.read(path)?;
            if text.is_empty() {
                text = data.read_replayed(path, &folder.join(format!("{}.replayed", machine.name)))?;
            }
            // `K10<hash of the CA>::<user>:<password>`; the password is the secret
            let Some(password) =
                text.trim_ascii().rsplit(|c| *c == b':').next().filter(|word| !word.is_empty())
            else {
                continue;
            };
            for value in both(password.to_vec()) {
                if !secret.values.contains(&value) {
                    secret.values.push(value);
                }
            }
            let homes = [path, PASSWD].iter().map(|path| data.places(path)).collect::<Result<Vec<_>>>()?;
            secret.blocks.insert(file.clone(), homes.concat());
            secret.texts.insert(file.clone(), text);
        }
        if !secret.values.is_empty() {
            out.push(secret);
        }
    }
    Ok(out)
}

/// A text of hexadecimal digits is searched for as what it stands for, too.
fn both(value: Vec<u8>) -> Vec<Vec<u8>> {
    let meant = unhex(&value);
    std::iter::once(value).chain(meant).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16);
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()).collect()
}

/// All files, in the order of their names; links are not followed.
fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let what = || format!("folder {}", folder.display());
    let mut entries = std::fs::read_dir(folder).with_context(what)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), out)?;
        } else if kind.is_file() {
            out.push(entry.path());
        }
    }
    Ok(())
}

/// The whole file but its holes. Returns how much was read.
fn through(file: &Path, needles: &Needles, found: &mut dyn FnMut(Hit)) -> Result<u64> {
    let mut open = File::open(file)?;
    let length = i64::try_from(open.metadata()?.len())?;
    let (mut at, mut read) = (0, 0);
    while at < length {
        // ENXIO: nothing but a hole up to the end
        let Ok(start) = lseek(&open, at, Whence::SeekData) else { break };
        let end = lseek(&open, start, Whence::SeekHole)?;
        let base = start.cast_unsigned();
        open.seek(SeekFrom::Start(base))?;
        let piece = (&open).take((end - start).cast_unsigned());
        read += needles.search(piece, &mut |hit| found(Hit { at: base + hit.at, ..hit }))?;
        at = end;
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
