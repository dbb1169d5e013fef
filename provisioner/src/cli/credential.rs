//! The operator's credential on this computer: one directory per cluster below `$XDG_STATE_HOME/muster`, with the
//! operator's key, the cluster's trust, the last roster, and which provisioner was asked last.

use super::Common;
use super::exit::{Code, Failure};
use crate::config;
use crate::store::keys::{read_key, read_trust, write_key, write_private};
use anyhow::Context;
use muster_protocol::ids::Number;
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Listener, Signed, Trust};
use muster_protocol::wire;
use std::path::{Path, PathBuf};

pub(super) struct Credential {
    folder: PathBuf,
    pub(super) key: SecretKey,
    pub(super) trust: Trust,
}

fn home() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(state), _) => Ok(state.join("muster")),
        (None, Some(home)) => Ok(home.join(".local/state/muster")),
        (None, None) => {
            anyhow::bail!("neither XDG_STATE_HOME nor HOME is set, so there is no place for credentials")
        }
    }
}

/// Where the credential of this cluster is or will be.
pub(super) fn folder(cluster: &str) -> anyhow::Result<PathBuf> {
    Ok(home()?.join(cluster))
}

/// Writes a new operator's key; the trust follows once there is one.
pub(super) fn create(folder: &Path, key: &SecretKey) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(write_key(&folder.join("operator.key"), key)?)
}

pub(super) fn add_trust(folder: &Path, trust: &Trust, server: &str) -> anyhow::Result<()> {
    write_private(&folder.join("trust"), &wire::encode(trust))?;
    write_private(&folder.join("server"), format!("{server}\n").as_bytes())?;
    Ok(())
}

/// The cluster that is meant: by option, by the configuration in reach, or the only one there is.
fn cluster_name(common: &Common) -> Result<String, Failure> {
    if let Some(name) = &common.cluster {
        return Ok(name.clone());
    }
    if let Ok(path) = config::find(common.config.as_deref())
        && let Ok(config) = config::load(&path)
    {
        return Ok(config.name.to_string());
    }
    let home = home()?;
    let mut names: Vec<String> = std::fs::read_dir(&home)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(
            Code::Denied,
            anyhow::anyhow!(
                "there is no operator credential in `{}`\nhint: `muster init` made one on the provisioner; copy its directory here",
                home.display()
            ),
        )),
        several => Err(Failure::new(
            Code::Usage,
            anyhow::anyhow!(
                "there are credentials of several clusters ({})\nhint: choose one with --cluster NAME",
                several.join(", ")
            ),
        )),
    }
}

impl Credential {
    pub(super) fn load(common: &Common) -> Result<Self, Failure> {
        let folder = folder(&cluster_name(common)?)?;
        let denied = |error: anyhow::Error| Failure::new(Code::Denied, error);
        let key = read_key(&folder.join("operator.key")).map_err(|error| {
            denied(
                anyhow::Error::new(error).context("there is no usable operator credential on this computer"),
            )
        })?;
        let trust = read_trust(&folder.join("trust")).map_err(|error| denied(error.into()))?;
        Ok(Self { folder, key, trust })
    }

    #[cfg(test)]
    pub(super) fn for_tests(key: SecretKey, trust: Trust) -> Self {
        Self { folder: PathBuf::new(), key, trust }
    }

    pub(super) fn server(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join("server")).ok()?;
        Some(text.trim().to_string()).filter(|text| !text.is_empty())
    }

    pub(super) fn remember_server(&self, server: &str) {
        if self.server().as_deref() != Some(server) {
            replace(&self.folder.join("server"), format!("{server}\n").as_bytes());
        }
    }

    /// Keeps the roster for the day on which no provisioner answers, if it is this cluster's and not older.
    pub(super) fn remember_roster(&self, bytes: &[u8]) {
        let known = self.roster().map(|roster| roster.version).unwrap_or_default();
        if let Some(roster) = self.verify_roster(bytes)
            && roster.version > known
        {
            replace(&self.folder.join("roster"), bytes);
        }
    }

    pub(super) fn roster(&self) -> Option<Roster> {
        self.verify_roster(&std::fs::read(self.folder.join("roster")).ok()?)
    }

    /// The roster, or how to come by one: without it nobody knows whom to believe on the LAN.
    pub(super) fn known_roster(&self) -> anyhow::Result<Roster> {
        self.roster().context(
            "no roster is kept on this computer\nhint: any answer of the provisioner brings one; then the LAN can be asked without it",
        )
    }

    fn verify_roster(&self, bytes: &[u8]) -> Option<Roster> {
        let signed: Signed<Roster> = wire::decode(bytes).ok()?;
        let verified = signed.verify(By::Online(&self.trust), &Listener::default()).ok()?;
        let roster = verified.into_inner();
        (roster.version > Number::default()).then_some(roster)
    }
}

/// Whole or not at all; a copy that could not be kept is no failure of the command.
fn replace(path: &Path, bytes: &[u8]) {
    let aside = path.with_extension("new");
    let _removed = std::fs::remove_file(&aside);
    let kept = write_private(&aside, bytes).map_err(anyhow::Error::from);
    if let Err(error) = kept.and_then(|()| std::fs::rename(&aside, path).map_err(anyhow::Error::from)) {
        tracing::debug!(%error, path = %path.display(), "not kept");
    }
}
