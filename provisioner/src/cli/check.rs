//! `muster check`: is cluster.toml right?

use super::exit::Failure;
use super::{Common, print};
use crate::config;
use crate::config::meant::Os;

pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let path = config::find(common.config.as_deref())?;
    let config = config::load(&path)?;
    let kept = config.machines.iter().filter(|machine| machine.os == Os::Keep).count();
    let text = format!(
        "{}: cluster `{}`, {} machines, {} of them servers, {kept} keep their own system\n",
        path.display(),
        config.name,
        config.machines.len(),
        config.servers().count(),
    );
    Ok(print::out(&text)?)
}
