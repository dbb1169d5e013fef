//! What can be asked of a server, and what it answers: the same questions that the agents' probes ask.

use super::{Process, Server, World};
use crate::cluster::{Member, NodeObject};
use crate::ids::{CaHash, ClusterId, MemberId};
use crate::texts;
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// Why /db/info has no member list for us; `text()` is its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListRefused {
    /// HTTP 000: nothing listens.
    Down,
    /// 500 before etcd runs.
    NotStarted,
    /// 500 on a learner.
    Learner,
    /// 500 without quorum.
    NoQuorum,
    /// 400 on SQLite.
    Sqlite,
}

impl ListRefused {
    pub fn text(self) -> &'static str {
        match self {
            Self::Down => texts::CONNECTION_REFUSED,
            Self::NotStarted => texts::ETCD_NOT_STARTED,
            Self::Learner => texts::NOT_FOR_LEARNER,
            Self::NoQuorum => texts::DEADLINE,
            Self::Sqlite => texts::ETCD_DISABLED,
        }
    }
}

/// 2381's /health and the learner metric; absent when nothing listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub healthy: bool,
    pub has_leader: bool,
    pub is_learner: bool,
}

/// The gateway's maintenance status; a learner's gateway does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub leader: Option<MemberId>,
}

impl World {
    /// GET /db/info on this server's loopback.
    pub fn member_list_as_seen_by(&self, s: Server) -> Result<Vec<Member>, ListRefused> {
        let run = match &self.servers[s.0].process {
            Process::Down => return Err(ListRefused::Down),
            Process::Booting { due, .. } if due - self.now > self.numbers.boot / 2 => {
                return Err(ListRefused::Down);
            }
            Process::Booting { .. } | Process::Joining(_) => return Err(ListRefused::NotStarted),
            Process::Sqlite => return Err(ListRefused::Sqlite),
            Process::Lingering => return Err(ListRefused::NoQuorum),
            Process::Etcd(run) => run,
        };
        let etcd = &self.clusters[run.cluster].etcd;
        let Some(me) = etcd.member(run.id) else { return Err(ListRefused::NoQuorum) };
        if run.since + self.numbers.settle > self.now || self.leader_heard(run.cluster, s.0).is_none() {
            return Err(ListRefused::NoQuorum);
        }
        if me.learner {
            return Err(ListRefused::Learner);
        }
        Ok(etcd.members().cloned().collect())
    }

    /// /cacerts: anyone may ask, and a server answers as soon as it has a CA and a process.
    pub fn cacerts(&self, s: Server) -> Option<CaHash> {
        match &self.servers[s.0].process {
            Process::Down => None,
            Process::Booting { .. }
            | Process::Joining(_)
            | Process::Etcd(_)
            | Process::Sqlite
            | Process::Lingering => self.servers[s.0].disk.ca,
        }
    }

    pub fn health(&self, s: Server) -> Option<Health> {
        match &self.servers[s.0].process {
            Process::Down | Process::Booting { .. } | Process::Joining(_) | Process::Sqlite => None,
            Process::Lingering => Some(Health { healthy: false, has_leader: false, is_learner: false }),
            Process::Etcd(run) => {
                let has_leader = self.leader_heard(run.cluster, s.0).is_some();
                let member = self.clusters[run.cluster].etcd.member(run.id);
                let is_learner = member.is_some_and(|m| m.learner);
                Some(Health { healthy: has_leader && member.is_some(), has_leader, is_learner })
            }
        }
    }

    pub fn status(&self, s: Server) -> Option<Status> {
        let Process::Etcd(run) = &self.servers[s.0].process else { return None };
        let etcd = &self.clusters[run.cluster].etcd;
        if etcd.member(run.id).is_none_or(|m| m.learner) {
            return None;
        }
        let leader = self.leader_heard(run.cluster, s.0).and(etcd.leader);
        Some(Status { cluster: etcd.id, member: run.id, leader })
    }

    /// READY=1 was sent and the API answers.
    pub fn is_ready(&self, s: Server) -> bool {
        match &self.servers[s.0].process {
            Process::Etcd(run) => run.ready && self.leader_heard(run.cluster, s.0).is_some(),
            Process::Sqlite => true,
            Process::Down | Process::Booting { .. } | Process::Joining(_) | Process::Lingering => false,
        }
    }

    pub fn is_running(&self, s: Server) -> bool {
        !matches!(self.servers[s.0].process, Process::Down)
    }

    /// What the join loop last logged, while it waits.
    pub fn waiting_text(&self, s: Server) -> Option<&str> {
        match &self.servers[s.0].process {
            Process::Joining(joining) => Some(&joining.waiting),
            Process::Down
            | Process::Booting { .. }
            | Process::Etcd(_)
            | Process::Sqlite
            | Process::Lingering => None,
        }
    }

    /// Peers that this server's etcd hears (`etcd_network_active_peers`), with the time since when.
    pub fn active_peers(&self, s: Server) -> Vec<(MemberId, u64)> {
        (0..self.servers.len())
            .filter(|at| *at != s.0)
            .filter_map(|at| {
                let since = self.connected_since(s.0, at)?;
                let Process::Etcd(run) = &self.servers[at].process else { return None };
                Some((run.id, since))
            })
            .collect()
    }

    pub fn reaches(&self, a: Server, b: Server) -> bool {
        self.reaches_at(a.0, b.0)
    }

    /// The Node objects, as a ready server's API shows them.
    pub fn nodes(&self, s: Server) -> Option<&BTreeMap<String, NodeObject>> {
        let Process::Etcd(run) = &self.servers[s.0].process else { return None };
        self.is_ready(s).then(|| &self.clusters[run.cluster].etcd.nodes)
    }

    /// Every distinct (CA, cluster id) pair that has a process running in it: more than one is a split.
    pub fn identities(&self) -> Vec<(CaHash, ClusterId)> {
        let mut pairs: Vec<_> = self
            .servers
            .iter()
            .filter_map(|machine| match &machine.process {
                Process::Etcd(run) => {
                    let etcd = &self.clusters[run.cluster].etcd;
                    Some((etcd.ca, etcd.id))
                }
                Process::Down
                | Process::Booting { .. }
                | Process::Joining(_)
                | Process::Sqlite
                | Process::Lingering => None,
            })
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}
