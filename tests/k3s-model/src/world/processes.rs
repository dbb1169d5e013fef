//! What one server's k3s process does by itself: boot by the join table, the join loop, noticing a removal, leaving without quorum.

use super::{Cluster, Event, Joining, Process, Run, Wal, World, peer_url};
use crate::cluster::{EtcdModel, Member, NodeObject, Refused};
use crate::config::url_host;
use crate::ids::{CaHash, MemberId};
use crate::join::{JoinStep, decide_join};
use crate::names::member_name;
use crate::start::Start;
use crate::texts;
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

impl World {
    pub(super) fn step_process(&mut self, at: usize) {
        match self.servers[at].process.clone() {
            Process::Down | Process::Sqlite | Process::Lingering => {}
            Process::Booting { due, what } => {
                if due <= self.now {
                    self.boot(at, what);
                }
            }
            Process::Joining(joining) => self.join(at, joining),
            Process::Etcd(run) => self.run_etcd(at, run),
        }
    }

    fn boot(&mut self, at: usize, what: Start) {
        match what {
            Start::Agent { .. } => self.exit(at, String::from("agents are not modelled")),
            Start::Fatal(why) => self.exit(at, why.to_string()),
            Start::NewSqlite | Start::ExistingSqlite => {
                let ca = self.own_ca(at);
                self.servers[at].disk.ca = Some(ca);
                self.servers[at].disk.sqlite = true;
                self.servers[at].process = Process::Sqlite;
            }
            Start::Migrate | Start::NewEtcdCluster => {
                self.servers[at].disk.sqlite = false;
                self.found_cluster(at);
            }
            Start::ExistingMember => match self.servers[at].disk.wal {
                Wal::Of { cluster, id } => self.run(at, cluster, id),
                Wal::None | Wal::EmptyDir => self.exit(at, String::from("no WAL")),
            },
            Start::RejoinAfterTombstone { server } => {
                let disk = &mut self.servers[at].disk;
                (disk.wal, disk.tombstone, disk.name) = (Wal::None, false, None);
                self.bootstrap(at, &server);
            }
            Start::Join { server } => self.bootstrap(at, &server),
        }
    }

    /// Kept CA files (server/tls of an earlier life) are used again: the trap of pre-seeded CAs.
    fn own_ca(&mut self, at: usize) -> CaHash {
        let luck = &mut self.luck;
        self.servers[at].disk.ca.unwrap_or_else(|| CaHash::of_luck(|| luck.next()))
    }

    fn found_cluster(&mut self, at: usize) {
        let ca = self.own_ca(at);
        let name = self.own_name(at);
        let etcd = EtcdModel::founded(ca, name, peer_url(&self.servers[at].address), self.now);
        let (c, id) = (self.clusters.len(), MemberId::derive(&peer_url(&self.servers[at].address), None));
        self.clusters.push(Cluster { etcd, electable_since: None });
        self.servers[at].disk.ca = Some(ca);
        self.servers[at].disk.wal = Wal::Of { cluster: c, id };
        self.events.push(Event::Founded { at: self.now, server: super::Server(at), ca });
        self.run(at, c, id);
    }

    /// The CAs come from the server asked; from here on the disk holds them, whatever becomes of the join.
    fn bootstrap(&mut self, at: usize, server: &str) {
        let Some((via, c)) = self.bootstrap_source(at, server) else {
            return self.exit(at, format!("{}: {}", texts::TOKEN_NOT_VALIDATED, texts::CONNECTION_REFUSED));
        };
        let ca = self.clusters[c].etcd.ca;
        if self.servers[at].config.token.as_ref().and_then(|t| t.ca).is_some_and(|pinned| pinned != ca) {
            return self.exit(
                at,
                format!(
                    "{}: token CA hash does not match the Cluster CA certificate hash",
                    texts::TOKEN_NOT_VALIDATED
                ),
            );
        }
        self.servers[at].disk.ca = Some(ca);
        self.servers[at].process = Process::Joining(Joining {
            cluster: c,
            via,
            next_try: self.now,
            kubelet_due: Some(self.now + self.numbers.kubelet),
            added: None,
            waiting: String::new(),
        });
    }

    fn bootstrap_source(&self, at: usize, server: &str) -> Option<(usize, usize)> {
        let host = url_host(server);
        let via = (0..self.servers.len()).find(|i| self.servers[*i].address == host && *i != at)?;
        let c = match &self.servers[via].process {
            Process::Etcd(run) => run.cluster,
            Process::Joining(joining) => joining.cluster,
            Process::Down | Process::Booting { .. } | Process::Sqlite | Process::Lingering => return None,
        };
        self.reaches_at(at, via).then_some((via, c))
    }

    fn join(&mut self, at: usize, mut joining: Joining) {
        let c = joining.cluster;
        if let Some((id, due)) = joining.added {
            if due <= self.now {
                self.servers[at].disk.wal = Wal::Of { cluster: c, id };
                self.run(at, c, id);
            }
            return;
        }
        let heard = self.reaches_at(at, joining.via)
            && self.run_of(c, joining.via).is_some()
            && self.leader_heard(c, joining.via).is_some();
        if heard && joining.kubelet_due.is_some_and(|due| due <= self.now) {
            joining.kubelet_due = None;
            self.register_bare_node(at, c);
        }
        if joining.next_try <= self.now {
            joining.next_try = self.now + self.numbers.join_retry;
            match self.try_join(at, &joining, heard) {
                Ok(id) => joining.added = Some((id, self.now + self.numbers.etcd_start)),
                Err(NoJoin::Wait(text)) => joining.waiting = text,
                Err(NoJoin::Duplicate) => {
                    // seen on a real k3s: by the time it is refused, its kubelet has registered a Node without the etcd label
                    self.register_bare_node(at, c);
                    self.servers[at].disk.name = None;
                    return self.exit(at, format!("{}: {}", texts::JOIN_FAILED, texts::DUPLICATE_NAME));
                }
            }
        }
        self.servers[at].process = Process::Joining(joining);
    }

    fn register_bare_node(&mut self, at: usize, c: usize) {
        let (name, now) = (self.servers[at].name.clone(), self.now);
        self.clusters[c].etcd.nodes.entry(name).or_default().heartbeat = now;
    }

    fn try_join(&mut self, at: usize, joining: &Joining, heard: bool) -> Result<MemberId, NoJoin> {
        let c = joining.cluster;
        if let Err(refused) = self.member_list_as_seen_by(super::Server(joining.via)) {
            return Err(NoJoin::Wait(format!("{}: {}", texts::WAITING_FOR_LIST, refused.text())));
        }
        let name = self.own_name(at);
        let url = peer_url(&self.servers[at].address);
        let members: Vec<Member> = self.clusters[c].etcd.members().cloned().collect();
        let machine = &self.servers[at];
        match decide_join(&members, &machine.name, &name, &machine.address) {
            JoinStep::Duplicate => return Err(NoJoin::Duplicate),
            JoinStep::GoOn { .. } | JoinStep::Alone => {
                let own = members.iter().find(|m| m.peer_url == url);
                return own.map(|m| m.id).ok_or(NoJoin::Duplicate);
            }
            JoinStep::Add { .. } => {}
        }
        let Some(leader_at) = self.leader_heard(c, joining.via).filter(|_| heard) else {
            return Err(NoJoin::Wait(String::from(texts::ADD_TIMED_OUT)));
        };
        let connected = self.connected(c, leader_at);
        let added = self.clusters[c].etcd.add_learner(&url, connected, self.numbers.add_rule, self.now);
        match added {
            Ok(id) => {
                self.events.push(Event::Added { at: self.now, server: super::Server(at), id });
                Ok(id)
            }
            Err(Refused::TimedOut) => Err(NoJoin::Wait(String::from(texts::ADD_TIMED_OUT))),
            Err(refused) => Err(NoJoin::Wait(format!("{}: {}", texts::WAITING_TO_JOIN, refused.text()))),
        }
    }

    fn own_name(&mut self, at: usize) -> String {
        let luck = self.luck.next();
        let machine = &mut self.servers[at];
        machine.disk.name.get_or_insert_with(|| member_name(&machine.name, luck)).clone()
    }

    fn run(&mut self, at: usize, cluster: usize, id: MemberId) {
        self.servers[at].process = Process::Etcd(Run {
            cluster,
            id,
            since: self.now,
            listed: false,
            removed_seen: None,
            quorum_since: None,
            quorum_lost: None,
            ready: false,
        });
    }

    fn run_etcd(&mut self, at: usize, mut run: Run) {
        let c = run.cluster;
        let heard = self.leader_heard(c, at).is_some();
        let Some(member) = self.clusters[c].etcd.member(run.id).cloned() else {
            return self.removed(at, run);
        };
        run.listed |= heard;
        if heard && !member.learner {
            run.quorum_lost = None;
            let since = *run.quorum_since.get_or_insert(self.now);
            if !run.ready && since + self.numbers.api <= self.now {
                run.ready = true;
                self.events.push(Event::Ready { at: self.now, server: super::Server(at) });
            }
        } else {
            run.quorum_since = None;
        }
        if run.ready && heard {
            self.heartbeat(at, c);
        }
        if run.ready && !heard {
            let lost = *run.quorum_lost.get_or_insert(self.now);
            if self.now >= lost + self.numbers.quorum_exit {
                return self.exit(at, String::from(texts::LEADERELECTION_LOST));
            }
        }
        if !run.ready && self.now >= run.since + self.numbers.api_wait {
            return self.exit(at, String::from(texts::API_NOT_READY));
        }
        self.servers[at].process = Process::Etcd(run);
    }

    /// Once ready, a server's Node carries the etcd label and both annotations.
    fn heartbeat(&mut self, at: usize, c: usize) {
        let machine = &self.servers[at];
        let etcd = machine.disk.name.clone().map(|name| (name, machine.address.clone()));
        let node = NodeObject { etcd, heartbeat: self.now, is_voter: true };
        self.clusters[c].etcd.nodes.insert(machine.name.clone(), node);
    }

    /// A live member that is removed leaves a tombstone and goes; one that was removed while it was down stays for ever.
    fn removed(&mut self, at: usize, mut run: Run) {
        let told = (0..self.servers.len())
            .any(|i| i != at && self.up_voter(run.cluster, i).is_some() && self.reaches_at(at, i));
        if told && !run.listed {
            self.servers[at].process = Process::Lingering;
            self.events.push(Event::Lingers { at: self.now, server: super::Server(at) });
            return;
        }
        if told || run.removed_seen.is_some() {
            let seen = *run.removed_seen.get_or_insert(self.now);
            if seen + self.numbers.removal_notice <= self.now {
                self.servers[at].disk.tombstone = true;
                return self.exit(at, String::from(texts::REMOVED));
            }
        }
        self.servers[at].process = Process::Etcd(run);
    }

    fn exit(&mut self, at: usize, text: String) {
        self.servers[at].process = Process::Down;
        self.events.push(Event::Exited { at: self.now, server: super::Server(at), text });
    }
}

enum NoJoin {
    Wait(String),
    Duplicate,
}
