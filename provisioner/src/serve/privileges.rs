//! Fewer rights, once the ports are open: another user if one is named, and no capability but binding low ports, which
//! is needed again when an interface comes back.
//!
//! Called while the process has one thread: capabilities belong to threads.

use super::kernel;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, User, chown, geteuid, setgroups, setresgid, setresuid};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error(
        "there is no user `{0}` on this host\nhint: create it, or take `user` out of [provisioner] in cluster.toml"
    )]
    NoUser(String),
    #[error("cannot give `{}` to `{user}`", path.display())]
    Chown { path: PathBuf, user: String, source: io::Error },
    #[error("cannot become `{user}`")]
    Become { user: String, source: nix::Error },
    #[error("cannot give up capabilities")]
    Capabilities(#[source] io::Error),
}

/// Tells what it did, for the log.
pub fn drop_to(user: Option<&str>, state: &Path) -> Result<&'static str, PrivilegeError> {
    if !geteuid().is_root() {
        return Ok("not started as root: nothing to give up");
    }
    let what = match user {
        Some(name) => {
            let user = User::from_name(name).ok().flatten();
            let user = user.ok_or_else(|| PrivilegeError::NoUser(name.into()))?;
            give(state, &user)?;
            become_user(&user).map_err(|source| PrivilegeError::Become { user: name.into(), source })?;
            "became another user, kept the right to bind low ports"
        }
        None => "stayed root without its rights, kept the one to bind low ports",
    };
    kernel::keep_only_low_ports().map_err(PrivilegeError::Capabilities)?;
    prctl::set_no_new_privs().map_err(|error| PrivilegeError::Capabilities(error.into()))?;
    Ok(what)
}

fn become_user(user: &User) -> nix::Result<()> {
    prctl::set_keepcaps(true)?;
    setgroups(&[user.gid])?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)
}

/// The state directory belongs to whom the process becomes.
fn give(path: &Path, user: &User) -> Result<(), PrivilegeError> {
    let failed =
        |source: io::Error| PrivilegeError::Chown { path: path.into(), user: user.name.clone(), source };
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
    chown(path, Some(uid), Some(gid)).map_err(|error| failed(error.into()))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), user)?;
        }
    }
    Ok(())
}
