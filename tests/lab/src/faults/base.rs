//! A founded cluster with its images registered, made once: packing a node image takes longer than most stories' beginnings.

use super::MACHINE;
use crate::demo::config;
use crate::demo::muster::Muster;
use crate::demo::parts::Build;
use crate::fleet::{self, Declared};
use crate::lan::Lan;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Base {
    pub(super) binary: PathBuf,
    /// All stories' folders are in it.
    pub(super) folder: PathBuf,
    /// The lab's copy of the operator's file, with one machine.
    pub(super) config: String,
    pub(super) declared: Declared,
    pub(super) builds: Vec<Build>,
}

impl Base {
    pub(super) fn make(
        lan: &Lan,
        binary: PathBuf,
        folder: &Path,
        cluster_toml: &str,
        builds: Vec<Build>,
    ) -> Result<Self> {
        let config = config::lab_copy(cluster_toml, &[MACHINE.to_owned()])?;
        let declared = fleet::declared(&config)?
            .into_iter()
            .next()
            .with_context(|| format!("the stories need a machine `{MACHINE}` in cluster.toml"))?;
        let base = Self { binary, folder: folder.into(), config, declared, builds };
        let muster = base.muster(lan, base.template());
        std::fs::create_dir_all(&muster.folder)?;
        std::fs::write(muster.config(), &base.config).context("writing the lab's cluster.toml")?;
        base.found(&muster)?;
        Ok(base)
    }

    /// `muster init`, and its images.
    pub(super) fn found(&self, muster: &Muster<'_>) -> Result<()> {
        muster.run(&["init"], Duration::from_secs(60))?;
        self.builds.iter().try_for_each(|build| muster.run(build, Duration::from_secs(600)))
    }

    pub(super) fn muster<'a>(&self, lan: &'a Lan, folder: PathBuf) -> Muster<'a> {
        Muster { lan, binary: self.binary.clone(), folder }
    }

    /// A copy of it for one story.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<()> {
        for part in ["provisioner", "operator"] {
            copy(&self.template().join(part), &folder.join(part))?;
        }
        Ok(())
    }

    /// The node image as it was before it was packed.
    pub(super) fn node_image(&self) -> Result<PathBuf> {
        let words = self.builds.iter().flatten();
        let after = words.skip_while(|word| *word != "--node-image").nth(1);
        after.map(PathBuf::from).context("no node image is registered")
    }

    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(self.template()).context("removing the provisioner's state")
    }

    fn template(&self) -> PathBuf {
        self.folder.join("base")
    }
}

/// Files with their modes. Artifacts are named by their content and never written again: a second name for them will do.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {}", from.display());
    std::fs::create_dir_all(to).with_context(what)?;
    std::fs::set_permissions(to, from.metadata().with_context(what)?.permissions()).with_context(what)?;
    for entry in std::fs::read_dir(from).with_context(what)? {
        let entry = entry.with_context(what)?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() {
            copy(&old, &new)?;
        } else if from.ends_with("artifacts") {
            std::fs::hard_link(&old, &new).with_context(what)?;
        } else {
            std::fs::copy(&old, &new).with_context(what)?;
        }
    }
    Ok(())
}
