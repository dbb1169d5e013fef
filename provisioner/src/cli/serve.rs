//! `muster serve`: be the provisioner.

use super::Common;
use super::exit::{Code, Failure};
use crate::config;
use crate::serve::run;
use crate::store::StoreError;
use crate::store::state_dir::StateDir;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let config = config::load(&config::find(common.config.as_deref())?)?;
    let filter = EnvFilter::try_from_env("MUSTER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second subscriber is only possible in tests; the first one does as well.
    let _first = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
    run::run(config, &StateDir::new(&common.state)).map_err(|error| {
        let missing = error
            .downcast_ref::<StoreError>()
            .is_some_and(|error| matches!(error, StoreError::Missing { .. } | StoreError::Lost { .. }));
        Failure::new(if missing { Code::NotFound } else { Code::Failed }, error)
    })
}
