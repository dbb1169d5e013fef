//! `muster init`: the keys, the store and the first operator of a new cluster.

use super::exit::{Code, Failure};
use super::{Common, credential, print};
use crate::config;
use crate::store::founding::{found, is_free, random};
use crate::store::state_dir::StateDir;
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Operator;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let config = config::load(&config::find(common.config.as_deref())?)?;
    let state = StateDir::new(&common.state);
    is_free(&state)?;
    let folder = credential::folder(config.name.as_str())?;
    if folder.join("operator.key").exists() {
        return Err(Failure::new(
            Code::Failed,
            anyhow::anyhow!(
                "this computer already has an operator credential for a cluster `{}`\nhint: move `{}` away if that cluster is no more",
                config.name,
                folder.display()
            ),
        ));
    }
    let key = SecretKey::from_seed(random()?);
    let name =
        std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "operator".into());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The operator's key first: a cluster without one could be asked nothing.
    credential::create(&folder, &key)?;
    let operator = Operator { name, key: key.public() };
    let trust = match found(&state, config.name.as_str(), operator, now) {
        Ok(trust) => trust,
        Err(error) => {
            // Ours alone: it was made a moment ago and belongs to no cluster.
            std::fs::remove_file(folder.join("operator.key"))?;
            return Err(error.into());
        }
    };
    credential::add_trust(&folder, &trust, &format!("127.0.0.1:{}", config.provisioner.api_port))?;
    print::out(&format!("{}\n", trust.cluster))?;
    print::note(&format!(
        "cluster `{name}` is founded
  state      {state}
  credential {folder} (yours: key {print})

take these two keys offline now, each to a place of its own; nothing here needs them:
  {root}      delegates a new online key, if this machine is stolen
  {recovery}  opens backups and the token box of last resort

next:
  muster image build --arch x86_64 --netboot DIR --agent FILE --node-image FILE --k3s DIR --kata FILE
  muster serve
  muster admission open --for 30m   (or, per machine: muster node approve NAME FINGERPRINT)",
        name = config.name,
        state = state.path().display(),
        folder = folder.display(),
        print = key.public().fingerprint(),
        root = state.key("root").display(),
        recovery = state.key("recovery").display(),
    ));
    Ok(())
}
