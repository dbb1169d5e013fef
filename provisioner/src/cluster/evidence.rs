//! What the servers' reports say together: one agreed picture of etcd, or the reason why there is none.
//!
//! Evidence is a report at most [`FRESH_MS`] old, made by each listed member itself. Everything else is hearsay.

use muster_protocol::etcd::{EtcdMember, Identity, OwnMember, ServerReport};
use muster_protocol::ids::{NodeName, Number};
use muster_protocol::keys::Fingerprint;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Older answers decide nothing.
pub const FRESH_MS: u64 = 5_000;
/// A change is made only between clocks this close; k3s itself refuses files 3 s from the future.
const CLOCK_LIMIT_MS: i64 = 1_000;

/// A declared server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: NodeName,
    pub address: Ipv4Addr,
}

/// The last report of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// On the provisioner's monotonic clock.
    pub at_ms: u64,
    pub key: Fingerprint,
    pub report: ServerReport,
    /// Its gate refused for want of a grant.
    pub wants_grant: bool,
    /// The order under which its disk was installed; zero on a machine that keeps its own system.
    pub installation: Number,
    /// The highest fence this node has accepted.
    pub seen_fence: Number,
}

/// All that a decision may look at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Monotonic; compares with [`Heard::at_ms`].
    pub now_ms: u64,
    /// Unix seconds, for the age of snapshots.
    pub now_unix: u64,
    /// In the order of `cluster.toml`.
    pub declared: &'a [Server],
    /// Since this process started.
    pub heard: &'a BTreeMap<NodeName, Heard>,
    /// The newest number that this provisioner's store has handed out.
    pub newest: Number,
    /// Commands that were given and not answered yet.
    pub pending: &'a [(NodeName, muster_protocol::grant::Action)],
}

impl<'a> View<'a> {
    pub fn fresh(&self, name: &NodeName) -> Option<&'a Heard> {
        self.heard.get(name).filter(|heard| self.now_ms.saturating_sub(heard.at_ms) <= FRESH_MS)
    }

    pub fn server(&self, name: &str) -> Option<&'a Server> {
        self.declared.iter().find(|server| server.name.as_str() == name)
    }
}

/// A node that has seen a higher fence than the store has given: the store is an old copy, put back by hand.
pub fn old_store(view: &View<'_>) -> Option<String> {
    let (name, heard) = view.heard.iter().find(|(_, heard)| heard.seen_fence > view.newest)?;
    Some(format!(
        "{name} has seen number {}, this store has given {} at most: it is an old copy, nothing is changed",
        heard.seen_fence, view.newest
    ))
}

/// Every listed member agrees with every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    pub members: Vec<EtcdMember>,
    /// Declared servers among them that vote, in the order of the list.
    pub voters: Vec<Server>,
    pub leader: NodeName,
}

impl Agreed {
    pub fn lists(&self, server: &Server) -> Option<&EtcdMember> {
        self.members.iter().find(|member| is(member, server))
    }
}

/// Whether this member is that server, by name or by address: either is enough to be in the way.
pub fn is(member: &EtcdMember, server: &Server) -> bool {
    member.node() == Some(server.name.as_str()) || member.peer == Some(server.address)
}

/// Asks every listed member. `except` is the joiner under its own fence: its half-made membership is not held against
/// it. The error says what a person would look at.
pub fn agreed(view: &View<'_>, identity: Identity, except: Option<&Server>) -> Result<Agreed, String> {
    other_cluster(view, identity)?;
    let members = lists(view, except)?;
    let mut leaders = Vec::new();
    let mut voters = Vec::new();
    for member in &members {
        if except.is_some_and(|joiner| is(member, joiner)) {
            continue;
        }
        let Some(node) = member.node() else {
            return Err(format!("member {:x} is listed but has not started", member.id));
        };
        if member.learner {
            return Err(format!("{node} is still a learner"));
        }
        let Some(server) = view.server(node) else {
            return Err(format!("{node} is listed but not declared as a server"));
        };
        let own = own_member(view, server)?;
        let identity_here = own.identity.ok_or_else(|| format!("{node} does not know its cluster yet"))?;
        if identity_here != identity {
            return Err(format!("{node} is in another cluster than the recorded one: nothing is changed"));
        }
        if own.learner || own.member_id != member.id {
            return Err(format!("{node} does not see itself as the voter that is listed"));
        }
        if !own.healthy {
            return Err(format!("etcd on {node} is not healthy"));
        }
        leaders.push(own.leader.ok_or_else(|| format!("{node} knows no leader"))?);
        voters.push(server.clone());
    }
    connected(view, &members, &voters)?;
    let leader = leaders.first().copied().filter(|first| leaders.iter().all(|other| other == first));
    let leader = leader.ok_or("the members name different leaders")?;
    let leader = members
        .iter()
        .find(|member| member.id == leader)
        .and_then(|member| view.server(member.node()?))
        .ok_or("the leader is not among the listed members")?;
    Ok(Agreed { leader: leader.name.clone(), members, voters })
}

/// The one list that every fresh server with an answer gives; none or two is an error.
fn lists(view: &View<'_>, except: Option<&Server>) -> Result<Vec<EtcdMember>, String> {
    let mut found: Option<(&NodeName, Vec<EtcdMember>)> = None;
    for server in view.declared {
        if except.is_some_and(|joiner| joiner.name == server.name) {
            continue;
        }
        let Some(Ok(members)) =
            view.fresh(&server.name).and_then(|h| h.report.own.as_ref()).map(|own| &own.members)
        else {
            continue;
        };
        let mut members = members.clone();
        members.sort_by_key(|member| member.id);
        match &found {
            None => found = Some((&server.name, members)),
            Some((_, known)) if *known == members => {}
            Some((other, _)) => return Err(format!("{} and {other} list different members", server.name)),
        }
    }
    match found {
        Some((_, members)) if !members.is_empty() => Ok(members),
        Some(_) | None => Err("no server gives a member list: is there a quorum?".into()),
    }
}

fn own_member<'a>(view: &View<'a>, server: &Server) -> Result<&'a OwnMember, String> {
    let heard =
        view.fresh(&server.name).ok_or_else(|| format!("{} has not reported for 5 s", server.name))?;
    heard.report.own.as_ref().ok_or_else(|| format!("etcd on {} does not answer", server.name))
}

/// With more than one voter each must have been connected to all others for 5 s.
fn connected(view: &View<'_>, members: &[EtcdMember], voters: &[Server]) -> Result<(), String> {
    for server in voters {
        let own = own_member(view, server)?;
        for other in voters.iter().filter(|other| other.name != server.name) {
            let id = members.iter().find(|member| is(member, other)).map(|member| member.id);
            if !id.is_some_and(|id| own.connected.contains(&id)) {
                return Err(format!("{} is not connected to {} for 5 s", server.name, other.name));
            }
        }
    }
    Ok(())
}

/// Any answer with another CA, from anywhere, stops everything: somebody made a second cluster.
fn other_cluster(view: &View<'_>, identity: Identity) -> Result<(), String> {
    for (name, heard) in view.heard {
        let outside = heard.report.outside.iter().find(|seen| seen.ca.is_some_and(|ca| ca != identity.ca));
        if let Some(seen) = outside {
            return Err(format!("{name} sees another cluster at {}: nothing is changed", seen.address));
        }
    }
    Ok(())
}

/// The clocks of `name` and all voters are known and within a second of the provisioner's.
pub fn clocks(view: &View<'_>, names: impl Iterator<Item = NodeName>) -> Result<(), String> {
    for name in names {
        let offset = view.fresh(&name).and_then(|heard| heard.report.clock_offset_ms);
        match offset {
            None => {
                return Err(format!(
                    "the clock of {name} is not known yet (hint: the provisioner vouches for no time until its own \
                     clock is synchronised, or `[provisioner] clock = \"local\"` says that it is right)"
                ));
            }
            Some(ms) if ms.abs() > CLOCK_LIMIT_MS => {
                return Err(format!("the clock of {name} is off by {ms} ms"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
