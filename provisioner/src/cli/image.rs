//! `muster image`: composes boot images, packs node images, registers Kata and k3s.
//!
//! The files are put into the state directory here; a running provisioner is only told of them.

/// From files to rows of the register.
mod make;

use super::client::Client;
use super::exit::{Code, Failure};
use super::{Common, Output, print};
use crate::config;
use crate::image::{base, compose};
use crate::store::artifacts::{register, word};
use crate::store::keys::read_trust;
use crate::store::rows::{ARTIFACTS, ArtifactRow};
use crate::store::state_dir::StateDir;
use crate::store::{Read, Store, StoreError};
use anyhow::Context;
use clap::{Args, Subcommand};
use make::make;
use muster_protocol::ids::Arch;
use muster_protocol::wire;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Make and register images
    Build(Box<Build>),
    /// Compose a boot image into a file and register nothing; without a trust file it belongs to no cluster yet
    Compose {
        /// Base parts of one architecture (images/netboot/build.sh)
        #[arg(long, value_name = "DIR")]
        netboot: PathBuf,
        /// The static muster-agent for it
        #[arg(long, value_name = "FILE")]
        agent: PathBuf,
        /// The cluster's trust file, as `muster init` made it
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// What is registered
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(super) struct Build {
    /// x86_64 or aarch64 [default: what the files say]
    #[arg(long)]
    arch: Option<Arch>,
    /// Compose the boot image from the base parts in this folder (images/netboot/build.sh)
    #[arg(long, value_name = "DIR", requires = "agent")]
    netboot: Option<PathBuf>,
    /// The static muster-agent for the boot image
    #[arg(long, value_name = "FILE", requires = "netboot")]
    agent: Option<PathBuf>,
    /// Kernel command line of the boot image, in place of the default
    #[arg(long, value_name = "TEXT", requires = "netboot")]
    cmdline: Option<String>,
    /// Pack this root file system (images/node/build.sh) into a node image
    #[arg(long, value_name = "FILE")]
    node_image: Option<PathBuf>,
    /// Kernel whose modules the node image has [default: manifest.json beside it]
    #[arg(long, value_name = "RELEASE", requires = "node_image")]
    kernel_release: Option<String>,
    /// The node image's version, for people [default: manifest.json beside it]
    #[arg(long, value_name = "VERSION", requires = "node_image")]
    image_version: Option<String>,
    /// Register this archive (tar.zst with opt/kata) as the Kata of cluster.toml; for all architectures, unless --arch
    /// or its name says which
    #[arg(long, value_name = "FILE")]
    kata: Option<PathBuf>,
    /// Register the files in this folder as the k3s of cluster.toml; folders in it that are named x86_64 and aarch64 are
    /// that architecture's
    #[arg(long, value_name = "DIR")]
    k3s: Option<PathBuf>,
    /// What of Kata and k3s is not the real thing, in words [default: the file STAND-IN beside it]
    #[arg(long, value_name = "TEXT")]
    stand_in: Option<String>,
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    match ask {
        Ask::Build(build) => build_images(common, build),
        Ask::Compose { netboot, agent, trust, output } => {
            Ok(compose_file(netboot, agent, trust.as_deref(), output)?)
        }
        Ask::List { output } => list(common, *output),
    }
}

fn build_images(common: &Common, build: &Build) -> Result<(), Failure> {
    let config = config::load(&config::find(common.config.as_deref())?)?;
    let state = StateDir::new(&common.state);
    let rows = make(build, &config, &state)?;
    if rows.is_empty() {
        let error = anyhow::anyhow!(
            "nothing to build\nhint: name --netboot and --agent, --node-image, --kata or --k3s"
        );
        return Err(Failure::new(Code::Usage, error));
    }
    announce(common, &state, &rows)?;
    for row in &rows {
        let bytes: u64 = row.files.iter().map(|file| file.bytes).sum();
        let line = format!("{} {} {} {}", word(row.kind), row.arch, row.version, print::bytes(bytes));
        print::out(&format!("{}\n", print::clean(&line)))?;
    }
    Ok(())
}

/// Beside its place first, then renamed: nobody finds half an image.
fn compose_file(netboot: &Path, agent: &Path, trust: Option<&Path>, output: &Path) -> anyhow::Result<()> {
    let base = base::read(netboot)?;
    let agent = std::fs::read(agent).with_context(|| format!("cannot read `{}`", agent.display()))?;
    // Read as a statement, so that a wrong file is refused here and not by a machine that boots it.
    let trust = trust.map(read_trust).transpose()?.map(|trust| wire::encode(&trust)).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let own = compose::Own { agent: &agent, trust: &trust, version, command_line: None };
    let uki = compose::boot_image(&base, &own)?;
    let partial = output.with_extension("partial");
    let written = std::fs::write(&partial, &uki).and_then(|()| std::fs::rename(&partial, output));
    written.with_context(|| format!("cannot write `{}`", output.display()))
}

/// Tells the running provisioner, or writes the register where none runs.
fn announce(common: &Common, state: &StateDir, rows: &[ArtifactRow]) -> Result<(), Failure> {
    match Store::open(&state.store()) {
        Ok(store) => {
            let folder = state.artifacts();
            Ok(store.write(|tx| rows.iter().try_for_each(|row| register(tx, &folder, row)))?)
        }
        Err(StoreError::Held { .. }) => {
            let mut client = Client::new(common)?;
            rows.iter().try_for_each(|row| client.post("/v1/images", row))
        }
        Err(
            error @ (StoreError::Missing { .. }
            | StoreError::Lost { .. }
            | StoreError::Newer { .. }
            | StoreError::Row { .. }
            | StoreError::Failed(_)
            | StoreError::File { .. }),
        ) => Err(error.into()),
    }
}

fn list(common: &Common, output: Output) -> Result<(), Failure> {
    let rows: Vec<ArtifactRow> = match Store::open(&StateDir::new(&common.state).store()) {
        Ok(store) => store.view()?.all(ARTIFACTS, "")?.into_iter().map(|(_, row)| row).collect(),
        // It runs, or it is elsewhere: then it can be asked.
        Err(_) => Client::new(common)?.get("/v1/images")?,
    };
    if output == Output::Json {
        return Ok(print::json(&rows)?);
    }
    let row = |row: &ArtifactRow| {
        let bytes: u64 = row.files.iter().map(|file| file.bytes).sum();
        let digest = row.files.first().map(|file| file.digest.to_string()).unwrap_or_default();
        vec![
            word(row.kind).to_string(),
            row.arch.to_string(),
            row.version.clone(),
            row.kernel_release.clone().unwrap_or_else(|| "-".into()),
            print::bytes(bytes),
            digest.get(..12).unwrap_or_default().to_string(),
            row.stand_in.clone().map(|what| format!("stand-in: {what}")).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    Ok(print::out(&print::table(&["KIND", "ARCH", "VERSION", "KERNEL", "SIZE", "DIGEST", ""], &rows))?)
}
