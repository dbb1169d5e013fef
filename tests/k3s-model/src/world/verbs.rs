//! What is done to servers (start, kill, wipe, cut links) and to clusters through a server (delete node, remove member, …).

use super::{Process, Server, Wal, World, peer_url};
use crate::cluster::Refused;
use crate::config::Config;
use crate::ids::MemberId;
use crate::start::decide_start;
use crate::world::{Cluster, Disk, Event};
use alloc::vec::Vec;

/// Why a cluster action through this server did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionRefused {
    /// Down, learner, or not ready.
    NoApi,
    NoQuorum,
    NoSuchNode,
    Etcd(Refused),
}

/// `kubectl delete node` came back without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The member that went with it. None is the miss that only the member list tells.
    pub member: Option<MemberId>,
}

impl World {
    /// Start k3s with this config; nothing happens if it runs already.
    pub fn start(&mut self, s: Server, config: Config, now: u64) {
        self.advance(now);
        if self.is_running(s) {
            return;
        }
        let what = decide_start(&self.disk(s), &config);
        self.events.push(Event::Started { at: self.now, server: s, as_what: what.clone() });
        let due = self.now + self.numbers.boot;
        let machine = &mut self.servers[s.0];
        machine.config = config;
        machine.process = Process::Booting { due, what };
    }

    /// kill -9, or the power gone: the disk stays.
    pub fn kill(&mut self, s: Server, now: u64) {
        self.advance(now);
        self.servers[s.0].process = Process::Down;
    }

    /// The whole of server/ gone, CAs included; the process ends with it.
    pub fn wipe(&mut self, s: Server, now: u64) {
        self.kill(s, now);
        self.servers[s.0].disk = Disk::default();
    }

    /// db/etcd/member/wal emptied, the directory left.
    pub fn half_wipe(&mut self, s: Server, now: u64) {
        self.kill(s, now);
        self.servers[s.0].disk.wal = Wal::EmptyDir;
    }

    /// server/db moved aside whole, server/tls left: what the gate does under a newer fence.
    pub fn move_db_aside(&mut self, s: Server, now: u64) {
        self.kill(s, now);
        let ca = self.servers[s.0].disk.ca;
        self.servers[s.0].disk = Disk { ca, ..Disk::default() };
    }

    /// Only machines of the same group reach each other; a machine in no group is alone.
    pub fn partition(&mut self, groups: &[&[Server]], now: u64) {
        self.advance(now);
        let mut islands: Vec<usize> = (0..self.servers.len()).map(|at| groups.len() + 1 + at).collect();
        for (island, group) in groups.iter().enumerate() {
            for s in *group {
                islands[s.0] = island + 1;
            }
        }
        self.set_islands(&islands);
    }

    pub fn heal(&mut self, now: u64) {
        self.advance(now);
        let islands = alloc::vec![0; self.servers.len()];
        self.set_islands(&islands);
    }

    fn set_islands(&mut self, islands: &[usize]) {
        for (machine, island) in self.servers.iter_mut().zip(islands) {
            if machine.island != *island {
                (machine.island, machine.island_since) = (*island, self.now);
            }
        }
    }

    /// `kubectl delete node NAME` through this server: RemovePeer wants name AND address to match, and calls a miss a success.
    pub fn delete_node(&mut self, via: Server, name: &str, now: u64) -> Result<Deleted, ActionRefused> {
        self.advance(now);
        let c = self.api(via)?;
        let node = self.clusters[c].etcd.nodes.get(name).cloned().ok_or(ActionRefused::NoSuchNode)?;
        let wanted = node.etcd.filter(|_| !self.delete_node_misses);
        let found = wanted.and_then(|(member, address)| {
            let url = peer_url(&address);
            let mut members = self.clusters[c].etcd.members();
            members.find(|m| m.name.as_deref() == Some(&member) && m.peer_url == url).map(|m| m.id)
        });
        if let Some(id) = found {
            self.remove_member(via, id, now)?;
        }
        self.clusters[c].etcd.nodes.remove(name);
        Ok(Deleted { member: found })
    }

    /// MemberRemove through this server's gateway.
    pub fn remove_member(&mut self, via: Server, id: MemberId, now: u64) -> Result<(), ActionRefused> {
        self.advance(now);
        let c = self.gateway(via)?;
        let leader_at = self.leader_heard(c, via.0).ok_or(ActionRefused::NoQuorum)?;
        let alive = self.runs_member(c, id).is_some_and(|at| self.reaches_at(leader_at, at));
        let connected = self.connected(c, leader_at);
        self.clusters[c].etcd.remove(id, alive, connected).map_err(ActionRefused::Etcd)?;
        Ok(())
    }

    /// MemberAdd through this server's gateway, as somebody by hand might.
    pub fn add_learner(&mut self, via: Server, url: &str, now: u64) -> Result<MemberId, ActionRefused> {
        self.advance(now);
        let c = self.gateway(via)?;
        let leader_at = self.leader_heard(c, via.0).ok_or(ActionRefused::NoQuorum)?;
        let connected = self.connected(c, leader_at);
        let rule = self.numbers.add_rule;
        self.clusters[c].etcd.add_learner(url, connected, rule, self.now).map_err(ActionRefused::Etcd)
    }

    /// transfer-leadership, which only the leader itself carries out.
    pub fn transfer_leadership(&mut self, via: Server, to: MemberId, now: u64) -> Result<(), ActionRefused> {
        self.advance(now);
        let c = self.gateway(via)?;
        if self.leader_heard(c, via.0) != Some(via.0) {
            return Err(ActionRefused::NoQuorum);
        }
        let to_at = self.runs_member(c, to).filter(|at| self.up_voter(c, *at).is_some());
        let to_at = to_at.ok_or(ActionRefused::Etcd(Refused::NotFound))?;
        if !self.reaches_at(via.0, to_at) {
            return Err(ActionRefused::Etcd(Refused::TimedOut));
        }
        self.clusters[c].etcd.elect(Some(to));
        Ok(())
    }

    /// `k3s server --cluster-reset --cluster-reset-restore-path=…` on a stopped server: same CA, new cluster id, one member.
    pub fn cluster_reset(&mut self, s: Server, now: u64) -> bool {
        self.kill(s, now);
        let Wal::Of { cluster, .. } = self.servers[s.0].disk.wal else { return false };
        let url = peer_url(&self.servers[s.0].address);
        let (name_luck, id_luck) = (self.luck.next(), self.luck.next());
        let name = crate::names::member_name(&self.servers[s.0].name, name_luck);
        let mut etcd = self.clusters[cluster].etcd.reset_to(name.clone(), url.clone(), id_luck, self.now);
        etcd.elect(None);
        self.clusters.push(Cluster { etcd, electable_since: None });
        let disk = &mut self.servers[s.0].disk;
        disk.wal = Wal::Of { cluster: self.clusters.len() - 1, id: MemberId::derive(&url, None) };
        disk.name = Some(name);
        true
    }

    fn gateway(&self, via: Server) -> Result<usize, ActionRefused> {
        let Process::Etcd(run) = &self.servers[via.0].process else { return Err(ActionRefused::NoApi) };
        self.up_voter(run.cluster, via.0).map(|_| run.cluster).ok_or(ActionRefused::NoApi)
    }

    fn api(&self, via: Server) -> Result<usize, ActionRefused> {
        let c = self.gateway(via)?;
        self.leader_heard(c, via.0).ok_or(ActionRefused::NoQuorum)?;
        if self.is_ready(via) { Ok(c) } else { Err(ActionRefused::NoApi) }
    }
}
