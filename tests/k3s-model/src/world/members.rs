//! What the members of one cluster do together: losing and electing a leader, keeping in step, the leader's promotion tick.

use super::{Event, Process, Run, World};
use crate::cluster::{Connected, Ticked};
use crate::ids::MemberId;

impl World {
    pub(super) fn step_cluster(&mut self, c: usize) {
        let leader_at = self.clusters[c].etcd.leader.and_then(|id| self.runs_member(c, id));
        let leader_at = leader_at.filter(|at| self.is_voter(c, *at) && self.has_quorum(c, *at));
        let Some(leader_at) = leader_at else {
            return self.elect(c);
        };
        self.keep_in_step(c, leader_at);
        if self.promotion_due(leader_at) {
            let ticked = self.clusters[c].etcd.tick_learners(&self.numbers, self.now);
            let at = self.now;
            self.events.extend(ticked.map(|t| match t {
                Ticked::Promoted(member) => Event::Promoted { at, member },
                Ticked::Evicted(member) => Event::Evicted { at, member },
            }));
        }
    }

    fn elect(&mut self, c: usize) {
        if self.clusters[c].etcd.leader.is_some() {
            self.clusters[c].etcd.elect(None);
        }
        let able: alloc::vec::Vec<usize> = (0..self.servers.len())
            .filter(|at| self.up_voter(c, *at).is_some() && self.has_quorum(c, *at))
            .collect();
        if able.is_empty() {
            self.clusters[c].electable_since = None;
            return;
        }
        let since = *self.clusters[c].electable_since.get_or_insert(self.now);
        if self.now < since + self.numbers.election {
            return;
        }
        let pick = able[(self.luck.next() % able.len() as u64) as usize];
        let id = self.up_voter(c, pick);
        self.clusters[c].etcd.elect(id);
        self.clusters[c].electable_since = None;
    }

    fn keep_in_step(&mut self, c: usize, leader_at: usize) {
        for at in 0..self.servers.len() {
            let Some(run) = self.run_of(c, at) else { continue };
            let (id, settled) = (run.id, run.since + self.numbers.settle <= self.now);
            if !settled || !self.reaches_at(leader_at, at) {
                continue;
            }
            let name = self.servers[at].disk.name.clone();
            let etcd = &mut self.clusters[c].etcd;
            etcd.progress(id, self.now);
            if let Some(name) = name {
                etcd.publish(id, &name);
            }
        }
    }

    /// The ticker runs from the start of the leader's own process.
    fn promotion_due(&self, leader_at: usize) -> bool {
        let Process::Etcd(run) = &self.servers[leader_at].process else { return false };
        let age = self.now - run.since;
        let before = age.saturating_sub(self.numbers.step);
        age / self.numbers.promotion_tick > before / self.numbers.promotion_tick
    }

    /// The etcd of this machine, if it runs in this cluster.
    pub(super) fn run_of(&self, c: usize, at: usize) -> Option<&Run> {
        match &self.servers[at].process {
            Process::Etcd(run) if run.cluster == c => Some(run),
            Process::Etcd(_)
            | Process::Down
            | Process::Booting { .. }
            | Process::Joining(_)
            | Process::Sqlite
            | Process::Lingering => None,
        }
    }

    /// The machine on which this member runs now.
    pub(super) fn runs_member(&self, c: usize, id: MemberId) -> Option<usize> {
        (0..self.servers.len()).find(|at| self.run_of(c, *at).is_some_and(|run| run.id == id))
    }

    fn is_voter(&self, c: usize, at: usize) -> bool {
        self.up_voter(c, at).is_some()
    }

    pub(super) fn up_voter(&self, c: usize, at: usize) -> Option<MemberId> {
        let id = self.run_of(c, at)?.id;
        self.clusters[c].etcd.member(id).filter(|m| !m.learner).map(|m| m.id)
    }

    /// This machine reaches a quorum of the cluster's voters, itself counted if it is one.
    pub(super) fn has_quorum(&self, c: usize, from: usize) -> bool {
        self.connected(c, from).now >= self.clusters[c].etcd.quorum()
    }

    pub(super) fn connected(&self, c: usize, from: usize) -> Connected {
        let mut connected = Connected { now: 0, long: 0 };
        for at in 0..self.servers.len() {
            if self.up_voter(c, at).is_none() || !self.reaches_at(from, at) {
                continue;
            }
            connected.now += 1;
            let long = self.connected_since(from, at).is_some_and(|s| s + self.numbers.connected <= self.now);
            if at == from || long {
                connected.long += 1;
            }
        }
        connected
    }

    /// Since when two running etcds hear each other.
    pub(super) fn connected_since(&self, a: usize, b: usize) -> Option<u64> {
        let (Process::Etcd(x), Process::Etcd(y)) = (&self.servers[a].process, &self.servers[b].process)
        else {
            return None;
        };
        let links = self.servers[a].island_since.max(self.servers[b].island_since);
        (x.cluster == y.cluster && self.reaches_at(a, b)).then(|| x.since.max(y.since).max(links))
    }

    pub(super) fn reaches_at(&self, a: usize, b: usize) -> bool {
        a == b || self.servers[a].island == self.servers[b].island
    }

    /// The leader, if this machine can hear it and its quorum.
    pub(super) fn leader_heard(&self, c: usize, from: usize) -> Option<usize> {
        let leader_at = self.runs_member(c, self.clusters[c].etcd.leader?)?;
        (self.reaches_at(from, leader_at) && self.has_quorum(c, leader_at)).then_some(leader_at)
    }
}
