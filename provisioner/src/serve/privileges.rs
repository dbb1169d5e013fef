//! Fewer rights, once the ports are open: another user if one is named, and no capability but binding low ports, which
//! is needed again when an interface comes back.
//!
//! Called while the process has one thread: capabilities belong to threads.

use super::kernel;
use nix::sys::prctl;
use nix::unistd::{User, geteuid, setgroups, setresgid, setresuid};
use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error(
        "there is no user `{0}` on this host\nhint: create it, or take `user` out of [provisioner] in cluster.toml"
    )]
    NoUser(String),
    #[error("cannot give `{}` to `{user}`", path.display())]
    Chown { path: PathBuf, user: String, source: io::Error },
    #[error(
        "without root's rights `{}` cannot be read\nhint: the state directory must lie where {who} can reach it", path.display()
    )]
    OutOfReach { path: PathBuf, who: String, source: io::Error },
    #[error("cannot become `{user}`")]
    Become { user: String, source: nix::Error },
    #[error("cannot give up capabilities")]
    Capabilities(#[source] io::Error),
}

/// Tells what it did, for the log. `state` belongs to whom the process becomes, and is still in reach afterwards.
pub fn drop_to(user: Option<&str>, state: &Path) -> Result<&'static str, PrivilegeError> {
    if !geteuid().is_root() {
        return Ok("not started as root: nothing to give up");
    }
    let what = match user {
        Some(name) => {
            let user = User::from_name(name).ok().flatten();
            let user = user.ok_or_else(|| PrivilegeError::NoUser(name.into()))?;
            give(state, name, user.uid.as_raw(), user.gid.as_raw())?;
            become_user(&user).map_err(|source| PrivilegeError::Become { user: name.into(), source })?;
            "became another user, kept the right to bind low ports"
        }
        None => {
            // Root without its rights reads what is root's, and nothing of the person's who called `init`.
            give(state, "root", 0, 0)?;
            "stayed root without its rights, kept the one to bind low ports"
        }
    };
    kernel::keep_only_low_ports().map_err(PrivilegeError::Capabilities)?;
    prctl::set_no_new_privs().map_err(|error| PrivilegeError::Capabilities(error.into()))?;
    if let Err(source) = std::fs::read_dir(state) {
        let who = user.unwrap_or("root without its capabilities").into();
        return Err(PrivilegeError::OutOfReach { path: state.into(), who, source });
    }
    Ok(what)
}

fn become_user(user: &User) -> nix::Result<()> {
    prctl::set_keepcaps(true)?;
    setgroups(&[user.gid])?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)
}

/// Links are given themselves and not followed: the folder may be an unprivileged user's already.
fn give(path: &Path, name: &str, uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    let failed = |source: io::Error| PrivilegeError::Chown { path: path.into(), user: name.into(), source };
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    lchown(path, Some(uid), Some(gid)).map_err(failed)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), name, uid, gid)?;
        }
    }
    Ok(())
}
