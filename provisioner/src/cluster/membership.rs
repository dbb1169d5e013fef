//! The single sequencer of etcd membership: init once ever, then one join at a time.
//!
//! `decide` is a pure function of the record and what was heard. Its caller saves `Decision::record` first and acts
//! afterwards. Grants are level-triggered: they are given as long as the record says so, and the gate on the node
//! makes each start count. The procedure and its reasons are in docs/cluster.md.

use super::evidence::{Agreed, Heard, Server, View, agreed, clocks, is, old_store};
use super::record::{Cluster, Listed, Lock, Purpose, Record};
use muster_protocol::etcd::{GateRecord, Identity};
use muster_protocol::grant::{Action, Start};
use muster_protocol::ids::{NodeName, Number};
use std::collections::BTreeMap;

/// A joiner that was not heard for so long has no part in what the voters listed within the last five seconds.
const DARK_MS: u64 = 15_000;
/// A snapshot older than this is no way back.
const SNAPSHOT_LIMIT_S: u64 = 3600;

/// Numbers and nonces that the caller's store and system hand out.
pub trait Fresh {
    /// The next number of the store; durable before it is used.
    fn number(&mut self) -> Number;
    fn nonce(&mut self) -> [u8; 16];
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be saved before anything below is done.
    pub record: Option<Record>,
    pub grants: Vec<(NodeName, Number, Start)>,
    pub commands: Vec<(NodeName, Action)>,
    /// Why a server that would start may not, for status and `explain`.
    pub waiting: BTreeMap<NodeName, String>,
    /// What changed, in words, for the event log.
    pub events: Vec<String>,
}

impl Decision {
    fn wait(&mut self, name: &NodeName, why: impl Into<String>) {
        self.waiting.insert(name.clone(), why.into());
    }
}

pub fn decide(record: &Record, view: &View<'_>, fresh: &mut dyn Fresh) -> Decision {
    let mut next = record.clone();
    let mut decision = Decision::default();
    if let Some(why) = old_store(view) {
        view.declared.iter().for_each(|server| decision.wait(&server.name, why.clone()));
        return decision;
    }
    match &record.cluster {
        Cluster::None => begin(&mut next, view, fresh, &mut decision),
        Cluster::Initialising { .. } => initialise(&mut next, view, &mut decision),
        Cluster::Up { identity } => match &record.lock {
            None => admit_next(&mut next, *identity, view, fresh, &mut decision),
            Some(_) => follow(&mut next, *identity, view, &mut decision),
        },
    }
    if next != *record {
        decision.record = Some(next);
    }
    decision
}

/// No cluster yet: every declared server must have answered that it holds no data, or a person vouched for it.
fn begin(next: &mut Record, view: &View<'_>, fresh: &mut dyn Fresh, decision: &mut Decision) {
    let must_answer = || view.declared.iter().filter(|server| !next.without.contains(&server.name));
    let Some(first) = must_answer().next() else { return };
    let obstacle = must_answer().find_map(|server| blank(view, server).err());
    if let Some(why) = obstacle {
        must_answer()
            .for_each(|server| decision.wait(&server.name, format!("the cluster is not made yet: {why}")));
        return;
    }
    let Some(installation) = view.heard.get(&first.name).map(|heard| heard.installation) else { return };
    let (node, nonce, fence) = (first.name.clone(), fresh.nonce(), fresh.number());
    decision.events.push(format!("every server answered that it holds no data: {node} makes the cluster"));
    next.lock = Some(Lock { holder: node.clone(), fence, purpose: Purpose::Init, listed: Listed::Never });
    next.cluster = Cluster::Initialising { node, nonce, installation };
    // The grant follows with the next decision, from the saved record.
}

/// It answered since this provisioner started, and neither its disk nor anything it sees is a cluster.
fn blank(view: &View<'_>, server: &Server) -> Result<(), String> {
    let name = &server.name;
    let heard = view.heard.get(name).ok_or_else(|| {
        format!("{name} has not answered (hint: muster cluster init --without {name}, if it cannot)")
    })?;
    let report = &heard.report;
    if !report.data.is_empty() {
        return Err(format!("{name} already holds k3s data"));
    }
    if report.record != GateRecord::Fresh {
        return Err(format!("{name} was started for a cluster before"));
    }
    if report.granted.is_some() {
        return Err(format!("{name} holds a grant that it has not used yet"));
    }
    if report.own.is_some() {
        return Err(format!("k3s answers on {name}"));
    }
    match report.outside.iter().find(|seen| seen.ca.is_some()) {
        Some(seen) => Err(format!("{name} sees a cluster at {}", seen.address)),
        None => Ok(()),
    }
}

/// The first server is making the cluster; nobody else gets anything.
fn initialise(next: &mut Record, view: &View<'_>, decision: &mut Decision) {
    let (Cluster::Initialising { node, nonce, installation }, Some(lock)) = (&next.cluster, &next.lock)
    else {
        return;
    };
    let (node, nonce, installation, fence) = (node.clone(), *nonce, *installation, lock.fence);
    for other in view.declared.iter().filter(|server| server.name != node) {
        decision.wait(&other.name, format!("{node} is making the cluster"));
    }
    let Some(heard) = view.fresh(&node) else {
        decision.wait(&node, "it is making the cluster but does not report");
        return;
    };
    let may_start = match &heard.report.record {
        GateRecord::Fresh => heard.report.data.is_empty(),
        GateRecord::Initialising { nonce: on_disk } => *on_disk == nonce,
        // The gate writes `Member` once it sees itself as a voter, which on this disk only this init could make it.
        GateRecord::Member { .. } => true,
        GateRecord::Joining { .. } => false,
    };
    // A blank disk may be a new one: the order under which it was installed tells.
    if !may_start || heard.installation != installation {
        let why = format!(
            "the disk on which {node} began the cluster is gone or was changed (hint: muster cluster init --abandon {node})"
        );
        return decision.wait(&node, why);
    }
    if let Some(identity) = initialised(view, &node, heard) {
        decision.events.push(format!("{node} made the cluster {}", identity.cluster_id));
        next.cluster = Cluster::Up { identity };
        next.changed_at = view.now_unix;
        next.lock = None;
    } else if heard.wants_grant {
        decision.grants.push((node, fence, Start::Init { nonce, installation }));
    }
}

/// Voter, leader, API ready, Node Ready, and alone.
fn initialised(view: &View<'_>, node: &NodeName, heard: &Heard) -> Option<Identity> {
    let own = heard.report.own.as_ref()?;
    let alone = matches!(own.members.as_deref(), Ok([only]) if only.id == own.member_id && is(only, view.server(node.as_str())?));
    let node_ready = heard.report.nodes.iter().any(|seen| seen.name == *node && seen.ready);
    let done =
        !own.learner && own.leader == Some(own.member_id) && own.healthy && own.ready && alone && node_ready;
    own.identity.filter(|_| done)
}

/// Nothing is under way: the first declared server that is no member and wants to start may be next.
fn admit_next(
    next: &mut Record,
    identity: Identity,
    view: &View<'_>,
    fresh: &mut dyn Fresh,
    decision: &mut Decision,
) {
    let asks = |server: &&Server| view.fresh(&server.name).is_some_and(|heard| wants(heard, server, None));
    let wanting: Vec<&Server> = view.declared.iter().filter(asks).collect();
    // After a restore the record may know nothing of a join that was under way: the joiner's own disk does.
    let unfinished =
        view.declared.iter().find(|server| unfinished(view, server) && !next.without.contains(&server.name));
    let Some(joiner) = unfinished.or(wanting.first().copied()) else { return };
    for other in wanting.iter().filter(|other| other.name != joiner.name) {
        decision.wait(&other.name, format!("{} joins first", joiner.name));
    }
    if !wanting.iter().any(|server| server.name == joiner.name) {
        return;
    }
    // A store put back by hand is known by what the nodes have seen; so each is heard once before anything new begins.
    let silent = view
        .declared
        .iter()
        .find(|server| !view.heard.contains_key(&server.name) && !next.without.contains(&server.name));
    if let Some(server) = silent {
        let why = format!(
            "{0} has not reported since the provisioner started (hint: muster cluster init --without {0}, if it cannot)",
            server.name
        );
        return decision.wait(&joiner.name, why);
    }
    // The clock was ahead then: no snapshot could be late enough for as long.
    next.changed_at = next.changed_at.min(view.now_unix);
    match gate(next, identity, view, joiner) {
        Ok(()) => {
            let fence = fresh.number();
            let holder = joiner.name.clone();
            decision.events.push(format!("{holder} may join (fence {fence})"));
            next.lock = Some(Lock { holder, fence, purpose: Purpose::Join, listed: Listed::Never });
        }
        Err(Closed::NeedsSnapshot(leader)) => {
            decision.wait(&joiner.name, "a snapshot is taken before the member list changes");
            take_snapshot(next, view, leader, decision);
        }
        Err(Closed::Because(why)) => decision.wait(&joiner.name, why),
    }
}

/// Its gate wrote down a join that has not ended: while its disk is seen, or as long as nothing says that it got a WAL. Or it
/// holds a grant of a lock that this record knows nothing of.
fn unfinished(view: &View<'_>, server: &Server) -> bool {
    let joining = |heard: &Heard| matches!(heard.report.record, GateRecord::Joining { .. });
    let last = view.heard.get(&server.name);
    view.fresh(&server.name).is_some_and(joining)
        || last
            .is_some_and(|heard| joining(heard) && !heard.report.data.wal || heard.report.granted.is_some())
}

enum Closed {
    Because(String),
    NeedsSnapshot(NodeName),
}

impl From<String> for Closed {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// The join gate before a lock is given. Under the lock the change has begun: then `follow` asks again, without what the
/// joiner itself has changed.
fn gate(record: &Record, identity: Identity, view: &View<'_>, joiner: &Server) -> Result<(), Closed> {
    let agreed = agreed(view, identity, None)?;
    if let Some(member) = agreed.lists(joiner) {
        return Err(Closed::Because(format!(
            "an old member {:x} of {} is still listed",
            member.id, joiner.name
        )));
    }
    joiner_may(identity, view, joiner, &agreed, None)?;
    let snapshots = agreed.voters.iter().filter_map(|voter| {
        let newest = view.fresh(&voter.name)?.report.newest_snapshot.as_ref()?;
        Some(newest.unix)
    });
    let good = |at: u64| at >= record.changed_at && view.now_unix.saturating_sub(at) <= SNAPSHOT_LIMIT_S;
    if snapshots.max().is_some_and(good) { Ok(()) } else { Err(Closed::NeedsSnapshot(agreed.leader)) }
}

/// The joiner itself: it reports, its disk fits, and all clocks are close.
fn joiner_may<'a>(
    identity: Identity,
    view: &View<'a>,
    joiner: &Server,
    agreed: &Agreed,
    fence: Option<Number>,
) -> Result<&'a Heard, String> {
    let heard =
        view.fresh(&joiner.name).ok_or_else(|| format!("{} has not reported for 5 s", joiner.name))?;
    own_data(heard, identity, fence)?;
    clocks(view, agreed.voters.iter().map(|voter| voter.name.clone()).chain([joiner.name.clone()]))?;
    Ok(heard)
}

/// The joiner's disk is blank, of this very join, or of this cluster; anything else is a person's business.
fn own_data(heard: &Heard, identity: Identity, fence: Option<Number>) -> Result<(), String> {
    let report = &heard.report;
    if report.data.state_db {
        return Err("its disk holds a SQLite cluster: back it up and remove server/db by hand".into());
    }
    match &report.record {
        GateRecord::Fresh if report.data.is_empty() => Ok(()),
        GateRecord::Fresh => Err("its disk holds k3s data that muster did not make".into()),
        GateRecord::Joining { fence: on_disk } if Some(*on_disk) == fence || fence.is_none() => Ok(()),
        // The provisioner's number is the newer one: the gate moves the old attempt's data aside.
        GateRecord::Joining { fence: on_disk } if fence.is_some_and(|mine| *on_disk < mine) => Ok(()),
        GateRecord::Joining { .. } => Err("its disk carries a newer fence than this provisioner gave".into()),
        GateRecord::Member { identity: on_disk, .. } if *on_disk == identity => Ok(()),
        GateRecord::Member { .. } => Err("its disk is a member of another cluster".into()),
        GateRecord::Initialising { .. } => Err("its disk began a cluster of its own".into()),
    }
}

/// Named by the change that it has to be younger than: k3s adds node and time itself.
fn take_snapshot(record: &Record, view: &View<'_>, leader: NodeName, decision: &mut Decision) {
    let under_way = view.pending.iter().any(|(_, action)| matches!(action, Action::Snapshot { .. }));
    if !under_way {
        let name = format!("muster-{}", record.changed_at);
        decision.commands.push((leader, Action::Snapshot { name }));
    }
}

/// Somebody holds the lock: help it to its end, or see that it is gone.
fn follow(next: &mut Record, identity: Identity, view: &View<'_>, decision: &mut Decision) {
    let Some(lock) = next.lock.clone() else { return };
    for server in view.declared.iter().filter(|server| server.name != lock.holder) {
        if view.fresh(&server.name).is_some_and(|heard| heard.wants_grant) {
            decision.wait(&server.name, format!("{} is joining", lock.holder));
        }
    }
    let Some(joiner) = view.server(lock.holder.as_str()) else {
        decision
            .wait(&lock.holder, "it holds the lock but is no longer declared (hint: muster cluster unlock)");
        return;
    };
    if joined(identity, view, joiner) {
        decision.events.push(format!("{} is a voter; the lock is released", lock.holder));
        next.lock = None;
        next.changed_at = view.now_unix;
        return;
    }
    let seen = match agreed(view, identity, Some(joiner)) {
        Ok(seen) => seen,
        Err(why) => return decision.wait(&lock.holder, why),
    };
    let listed = match seen.lists(joiner) {
        None => Listed::Never,
        Some(member) if member.name.is_none() => Listed::Unstarted,
        Some(_) => Listed::Started,
    };
    if gone(view, joiner, &lock, listed) {
        decision.events.push(format!("{} is gone from every list; the lock is released", lock.holder));
        next.lock = None;
        next.changed_at = view.now_unix;
        return;
    }
    next.lock = Some(Lock { listed: lock.listed.max(listed), ..lock.clone() });
    match joiner_may(identity, view, joiner, &seen, Some(lock.fence)) {
        Err(why) => decision.wait(&lock.holder, why),
        Ok(heard) if wants(heard, joiner, Some(lock.fence)) => {
            let voters = seen.voters.iter().filter(|voter| voter.name != joiner.name);
            let voters = voters.map(|voter| (voter.name.clone(), voter.address)).collect();
            decision.grants.push((lock.holder, lock.fence, Start::Join { identity, voters }));
        }
        Ok(_) => {}
    }
}

/// It asks; or its etcd came up with the data of an attempt that was evicted meanwhile, and will never be healthy: only a
/// newer fence takes it out of there.
fn wants(heard: &Heard, server: &Server, fence: Option<Number>) -> bool {
    let stuck = match &heard.report.record {
        GateRecord::Joining { fence: on_disk } => {
            fence.is_none_or(|fence| *on_disk < fence) && evicted(heard, server)
        }
        GateRecord::Fresh | GateRecord::Initialising { .. } | GateRecord::Member { .. } => false,
    };
    heard.wants_grant || stuck
}

/// All list the same voters, the joiner among them, and it serves: Node Ready and /readyz.
fn joined(identity: Identity, view: &View<'_>, joiner: &Server) -> bool {
    let Ok(seen) = agreed(view, identity, None) else { return false };
    let Some(heard) = view.fresh(&joiner.name) else { return false };
    let ready = heard.report.own.as_ref().is_some_and(|own| own.ready);
    let node_ready = heard.report.nodes.iter().any(|node| node.name == joiner.name && node.ready);
    ready && node_ready && seen.voters.iter().any(|voter| voter.name == joiner.name)
}

/// It was listed and no longer is. A disk with data cannot join anew under the same fence, so another may begin. One that
/// never started, or that was replaced since, keeps the lock and tries again under it: a grant may still be on its way to it.
///
/// The voters' lists may be older than what the joiner did last. So a joiner that reports must itself have read a list after
/// it had its data; one that is dark must have been so for longer than any report is believed.
fn gone(view: &View<'_>, joiner: &Server, lock: &Lock, listed_now: Listed) -> bool {
    if listed_now != Listed::Never {
        return false;
    }
    match (lock.listed, view.fresh(&joiner.name)) {
        (Listed::Started, Some(heard)) => !heard.report.data.is_empty() && unlisted(heard, joiner),
        (Listed::Started, None) => view.heard.get(&joiner.name).is_some_and(|heard| {
            !heard.report.data.is_empty() && view.now_ms.saturating_sub(heard.at_ms) > DARK_MS
        }),
        (Listed::Never | Listed::Unstarted, Some(heard)) => {
            heard.report.record == GateRecord::Joining { fence: lock.fence } && evicted(heard, joiner)
        }
        (Listed::Never | Listed::Unstarted, None) => false,
    }
}

/// Its disk has a WAL, so it was added once; and a list that it read afterwards does not hold it any more.
fn evicted(heard: &Heard, server: &Server) -> bool {
    heard.report.data.wal && unlisted(heard, server)
}

fn unlisted(heard: &Heard, server: &Server) -> bool {
    heard
        .report
        .outside
        .iter()
        .any(|seen| seen.members.as_ref().is_ok_and(|list| !list.iter().any(|member| is(member, server))))
}
