//! What only a person may decide about the cluster, and what an install order must ask first.

use super::evidence::{Server, View, is};
use super::record::{Cluster, Record};
use muster_protocol::etcd::GateRecord;
use muster_protocol::ids::NodeName;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("`{0}` is not a declared server")]
    NotAServer(NodeName),
    #[error("the cluster is already made; it is never made again")]
    AlreadyUp,
    #[error("no cluster is being made")]
    NotInitialising,
    #[error(
        "`{0}` is the machine that is making the cluster\nhint: muster cluster init --abandon {0}, if its disk is lost"
    )]
    IsTheFirst(NodeName),
    #[error("`{0}` is not the machine that is making the cluster")]
    NotTheFirst(NodeName),
    #[error(
        "`{0}` has not answered that it holds no data; only when every other server has may an init be abandoned"
    )]
    MayHoldData(NodeName),
    #[error("nothing holds the lock")]
    NotLocked,
}

/// `muster cluster init --without NAME`: nothing need wait for an answer of this server. Once the cluster is up it only
/// means that a join need not have heard it; a listed member is always asked.
pub fn without(record: &Record, view: &View<'_>, name: &NodeName) -> Result<Record, Refused> {
    declared(view, name)?;
    match &record.cluster {
        Cluster::Initialising { node, .. } if node == name => Err(Refused::IsTheFirst(name.clone())),
        Cluster::None | Cluster::Initialising { .. } | Cluster::Up { .. } => {
            let mut next = record.clone();
            if !next.without.contains(name) {
                next.without.push(name.clone());
            }
            Ok(next)
        }
    }
}

/// `muster cluster init --abandon NODE`: the disk of an init died. Every other server must have answered "no data".
pub fn abandon(record: &Record, view: &View<'_>, name: &NodeName) -> Result<Record, Refused> {
    declared(view, name)?;
    match &record.cluster {
        Cluster::Up { .. } => return Err(Refused::AlreadyUp),
        Cluster::None => return Err(Refused::NotInitialising),
        Cluster::Initialising { node, .. } if node != name => return Err(Refused::NotTheFirst(name.clone())),
        Cluster::Initialising { .. } => {}
    }
    for server in view.declared.iter().filter(|server| server.name != *name) {
        let blank = view.heard.get(&server.name).is_some_and(|heard| {
            heard.report.data.is_empty()
                && heard.report.record == GateRecord::Fresh
                && heard.report.own.is_none()
        });
        if !blank && !record.without.contains(&server.name) {
            return Err(Refused::MayHoldData(server.name.clone()));
        }
    }
    Ok(Record { cluster: Cluster::None, lock: None, ..record.clone() })
}

/// `muster cluster unlock`: a person says that the holder will not go on. The caller forgets what was heard of the holder,
/// so that the next join waits until it has reported anew what is on its disk: its grant may still be there.
pub fn unlock(record: &Record) -> Result<Record, Refused> {
    match (&record.lock, &record.cluster) {
        (None, _) => Err(Refused::NotLocked),
        (Some(lock), Cluster::Initialising { .. }) => Err(Refused::IsTheFirst(lock.holder.clone())),
        (Some(_), Cluster::None | Cluster::Up { .. }) => Ok(Record { lock: None, ..record.clone() }),
    }
}

/// May this machine's disk be written as far as etcd is concerned? `Err` says which member would be lost.
pub fn may_install(record: &Record, view: &View<'_>, server: &Server) -> Result<(), String> {
    match &record.cluster {
        Cluster::None => Ok(()),
        Cluster::Initialising { node, .. } if *node == server.name => Err(format!(
            "{node} may have begun to make the cluster on its old disk (hint: muster cluster init --abandon {node})"
        )),
        Cluster::Initialising { .. } => Ok(()),
        Cluster::Up { .. } => {
            let mut asked = 0;
            for other in view.declared.iter().filter(|other| other.name != server.name) {
                let own = view.fresh(&other.name).and_then(|heard| heard.report.own.as_ref());
                let Some(Ok(members)) = own.map(|own| &own.members) else { continue };
                asked += 1;
                if members.iter().any(|member| is(member, server)) {
                    return Err(format!("{} still lists {} as a member of etcd", other.name, server.name));
                }
            }
            if asked == 0 {
                return Err("no server can say whether it is still a member of etcd".into());
            }
            Ok(())
        }
    }
}

fn declared(view: &View<'_>, name: &NodeName) -> Result<(), Refused> {
    view.server(name.as_str()).map(|_| ()).ok_or_else(|| Refused::NotAServer(name.clone()))
}
