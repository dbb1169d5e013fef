//! The first act: keys, trust, delegation, store. Done once; an existing state directory is left alone.

use super::keys::{KeyError, write_key, write_private};
use super::rows::{COUNTERS, HOME, Home, OPERATORS};
use super::state_dir::StateDir;
use super::{Store, StoreError};
use muster_protocol::ids::ClusterId;
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Operator;
use muster_protocol::signed::{Delegation, Signed, Trust};
use muster_protocol::wire;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    #[error("`{}` already holds a cluster; it is left as it is\nhint: --state DIR makes another one elsewhere", path.display())]
    Exists { path: PathBuf },
    #[error(
        "`{}` holds a cluster whose store is lost; that cluster may be running and is not made again\nhint: put the newest copy of `store.redb` back there", path.display()
    )]
    StoreLost { path: PathBuf },
    #[error(
        "`{}` has keys but no `trust`: an `init` was broken off there, or that file was lost\nhint: if no machine ever booted from it, remove the directory and run `muster init` again; if one did, put the copy of `trust` back", path.display()
    )]
    Half { path: PathBuf },
    #[error("cannot make `{}`", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the system gives no random bytes")]
    Random,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub fn random<const N: usize>() -> Result<[u8; N], FoundingError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| FoundingError::Random)?;
    Ok(bytes)
}

/// Whether nothing is or was here. Asked before anything is made.
pub fn is_free(state: &StateDir) -> Result<(), FoundingError> {
    let path = state.path().to_path_buf();
    if state.trust().exists() && !state.store().exists() {
        return Err(FoundingError::StoreLost { path });
    }
    if state.trust().exists() {
        return Err(FoundingError::Exists { path });
    }
    let begun =
        [state.store(), state.delegation(), state.key("root"), state.key("online"), state.key("recovery")];
    if begun.iter().any(|path| path.exists()) {
        return Err(FoundingError::Half { path });
    }
    Ok(())
}

/// Makes the state directory. The operator's private key belongs to a person and is made elsewhere.
pub fn found(
    state: &StateDir,
    cluster_name: &str,
    operator: Operator,
    now_unix: u64,
) -> Result<Trust, FoundingError> {
    is_free(state)?;
    for path in [state.path().to_path_buf(), state.keys(), state.artifacts()] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| FoundingError::Folder { path, source })?;
    }
    let (root, online, recovery) =
        (SecretKey::from_seed(random()?), SecretKey::from_seed(random()?), SecretKey::from_seed(random()?));
    let cluster = ClusterId(random()?);
    let trust = Trust {
        cluster,
        cluster_name: cluster_name.into(),
        root: root.public().verify,
        build_epoch: now_unix,
    };
    let delegation = Delegation { number: 1, online: online.public().verify };
    let delegation = Signed::by_key(cluster, &root, &delegation);
    for (name, key) in [("root", &root), ("online", &online), ("recovery", &recovery)] {
        write_key(&state.key(name), key)?;
    }
    write_private(&state.delegation(), &wire::encode(&delegation))?;
    let store = Store::create(&state.store())?;
    store.write(|tx| -> Result<(), StoreError> {
        tx.put(HOME, "home", &Home { cluster, recovery: recovery.public() })?;
        tx.put(COUNTERS, "generation", &0)?;
        tx.put(OPERATORS, "operators", &vec![operator])
    })?;
    // Last: with it the state directory counts as complete.
    write_private(&state.trust(), &wire::encode(&trust))?;
    Ok(trust)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::{read_key, read_online, read_trust};

    fn alice() -> Operator {
        Operator { name: "alice".into(), key: SecretKey::from_seed([1; 32]).public() }
    }

    #[test]
    fn a_founded_state_can_be_read_back_and_is_not_founded_twice() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        let trust = found(&state, "lab", alice(), 1_000).unwrap();
        assert_eq!(read_trust(&state.trust()).unwrap(), trust);
        assert_eq!(read_online(&state, &trust).unwrap().number, 1);
        assert!(matches!(found(&state, "lab", alice(), 1_000), Err(FoundingError::Exists { .. })));
        // A lost store is no free place, and says so.
        std::fs::rename(state.store(), folder.path().join("away")).unwrap();
        assert!(matches!(found(&state, "lab", alice(), 1_000), Err(FoundingError::StoreLost { .. })));
        assert!(matches!(Store::open(&state.store()), Err(StoreError::Lost { .. })));
        std::fs::rename(folder.path().join("away"), state.store()).unwrap();
        // Root and recovery are meant to be taken away.
        std::fs::remove_file(state.key("root")).unwrap();
        std::fs::remove_file(state.key("recovery")).unwrap();
        assert!(read_online(&state, &trust).is_ok());
    }

    #[test]
    fn an_init_that_was_broken_off_says_so_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        found(&state, "lab", alice(), 1_000).unwrap();
        let trust = std::fs::read(state.trust()).unwrap();
        std::fs::remove_file(state.trust()).unwrap();
        let error = found(&state, "lab", alice(), 1_000).unwrap_err();
        assert!(
            matches!(error, FoundingError::Half { .. }) && error.to_string().contains("hint: "),
            "{error}"
        );
        std::fs::remove_file(state.store()).unwrap();
        assert!(matches!(found(&state, "lab", alice(), 1_000), Err(FoundingError::Half { .. })));
        std::fs::write(state.trust(), trust).unwrap();
        assert!(matches!(found(&state, "lab", alice(), 1_000), Err(FoundingError::StoreLost { .. })));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        found(&state, "lab", alice(), 1_000).unwrap();
        let path = state.key("online");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_key(&path), Err(KeyError::Open { mode: 0o644, .. })));
    }
}
