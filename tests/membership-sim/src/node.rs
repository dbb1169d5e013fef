//! One machine: what survives on its disk, what a reboot loses, the gate before every start, and what its agent reports.

use k3s_model::config::Config;
use k3s_model::ids::CaHash;
use k3s_model::token::Token;
use k3s_model::world::{Server as Machine, World};
use muster::cluster::evidence::Server;
use muster_agent::node::gate::decide::{Allowed, Disk, Me, Way, decide};
use muster_agent::node::gate::record::Kept;
use muster_protocol::etcd::{
    DataFacts, EtcdMember, GateRecord, Identity, NodeSeen, Outside, OwnMember, ServerReport, SnapshotTaken,
};
use muster_protocol::grant::Grant;
use muster_protocol::ids::{Digest, Number};
use std::net::Ipv4Addr;

/// systemd's RestartSec.
const RESTART_MS: u64 = 5_000;

/// A fault planted in the gate, to see that the invariants bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateBug {
    None,
    /// Takes a grant whatever newer fence it has seen.
    AnyFence,
    /// Starts k3s with the first config again when it finds nothing.
    InitAgainAfterWipe,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub machine: Machine,
    pub server: Server,
    /// How often its disk was installed.
    pub installation: u64,
    /// Durable: the gate's record. A wipe of the disk takes it.
    pub kept: Kept,
    pub snapshot: Option<u64>,
    /// tmpfs: a reboot takes it.
    pub grant: Option<Grant>,
    pub powered: bool,
    pub wants_grant: bool,
    /// k3s is to run; tried again at this time.
    pub start_at: u64,
    pub next_report: u64,
    pub sequence: u64,
}

impl Node {
    pub fn new(machine: Machine, server: Server) -> Self {
        Self {
            machine,
            server,
            installation: 1,
            kept: Kept::default(),
            snapshot: None,
            grant: None,
            powered: true,
            wants_grant: false,
            start_at: 0,
            next_report: 0,
            sequence: 0,
        }
    }

    /// The service manager's turn: k3s down and due goes through the gate.
    pub fn supervise(&mut self, world: &mut World, nodes: &[(Machine, Ipv4Addr)], now: u64, bug: GateBug) {
        if !self.powered || world.is_running(self.machine) || now < self.start_at {
            return;
        }
        self.start_at = now + RESTART_MS;
        let disk = self.disk(world);
        let mut kept = self.kept.clone();
        if bug == GateBug::AnyFence {
            kept.fence = Number::default();
        }
        match decide(self.me(), &disk, &kept, self.grant.as_ref()) {
            Ok(allowed) => self.start(world, nodes, allowed, now),
            Err(_) if bug == GateBug::InitAgainAfterWipe && !disk.data.wal => {
                let config = Config { cluster_init: true, ..Config::default() };
                world.start(self.machine, config, now);
            }
            Err(refusal) => self.wants_grant = refusal.wants_grant(),
        }
    }

    fn me(&self) -> Me<'_> {
        let installation = Number { n: self.installation, ..Number::default() };
        Me { name: &self.server.name, address: self.server.address, installation }
    }

    fn disk(&self, world: &World) -> Disk {
        let facts = world.disk(self.machine);
        Disk {
            data: DataFacts { wal: facts.wal_dir, tombstone: facts.tombstone, state_db: facts.state_db },
            wal_is_empty: facts.wal_empty,
            member_name: facts.name_file,
        }
    }

    /// The fence of a grant that lies here and lets k3s start.
    fn granted(&self, world: &World) -> Option<Number> {
        let allowed = decide(self.me(), &self.disk(world), &self.kept, Some(self.grant.as_ref()?)).ok()?;
        (allowed.way != Way::Resume).then_some(allowed.keep.fence)
    }

    fn start(&mut self, world: &mut World, nodes: &[(Machine, Ipv4Addr)], allowed: Allowed, now: u64) {
        let url = |address: Ipv4Addr| format!("https://{address}:6443");
        let other = nodes.iter().map(|(_, address)| *address).find(|address| *address != self.server.address);
        let config = match &allowed.way {
            Way::Init { .. } => Config { cluster_init: true, ..Config::default() },
            Way::Resume => Config { server: other.map(url), ..Config::default() },
            Way::Join { identity, voters, .. } => {
                let fits = voters.iter().find(|(_, address)| {
                    let via = nodes.iter().find(|(_, a)| a == address).map(|(machine, _)| *machine);
                    via.is_some_and(|via| {
                        world.reaches(self.machine, via)
                            && world.cacerts(via).is_some_and(|ca| Digest(ca.0) == identity.ca)
                    })
                });
                // No voter with the right CA answers: the gate refuses this start and keeps the grant.
                let Some((_, address)) = fits else { return };
                // The sealed token in its full form: its hash pins the CA.
                let token = Token {
                    ca: Some(CaHash(identity.ca.0)),
                    user: Some("server".into()),
                    password: "sealed".into(),
                };
                Config { server: Some(url(*address)), token: Some(token), ..Config::default() }
            }
        };
        self.kept = allowed.keep;
        self.wants_grant = false;
        if let Way::Join { move_aside: true, .. } = allowed.way {
            world.move_db_aside(self.machine, now);
        }
        if allowed.way != Way::Resume {
            self.grant = None;
        }
        world.start(self.machine, config, now);
    }

    /// What the agent writes down once it sees itself as a voter.
    pub fn record_membership(&mut self, world: &World) {
        let joining =
            matches!(self.kept.record, GateRecord::Initialising { .. } | GateRecord::Joining { .. });
        let (Some(identity), Some(name)) = (self.identity(world), world.disk(self.machine).name_file) else {
            return;
        };
        if joining && world.status(self.machine).is_some_and(|status| status.leader.is_some()) {
            self.kept.record = GateRecord::Member { identity, name, address: self.server.address };
        }
    }

    fn identity(&self, world: &World) -> Option<Identity> {
        let status = world.status(self.machine)?;
        Some(Identity { ca: Digest(world.cacerts(self.machine)?.0), cluster_id: status.cluster.0 })
    }

    pub fn report(&mut self, world: &World, nodes: &[(Machine, Ipv4Addr)], now: u64) -> ServerReport {
        self.sequence += 1;
        let outside =
            nodes.iter().filter(|(machine, _)| *machine != self.machine).map(|(machine, address)| {
                let reached = world.reaches(self.machine, *machine);
                Outside {
                    address: *address,
                    peer_port: reached && world.is_running(*machine),
                    ca: world.cacerts(*machine).filter(|_| reached).map(|ca| Digest(ca.0)),
                    members: match world.member_list_as_seen_by(*machine) {
                        Ok(list) if reached => Ok(list.iter().map(member).collect()),
                        Ok(_) => Err("no answer".into()),
                        Err(refused) => Err(refused.text().to_string()),
                    },
                }
            });
        ServerReport {
            data: self.disk(world).data,
            record: self.kept.record.clone(),
            granted: self.granted(world),
            unit: if world.is_running(self.machine) { "active" } else { "failed" }.into(),
            own: self.own(world, now),
            outside: outside.collect(),
            newest_snapshot: self.snapshot.map(|unix| SnapshotTaken { name: format!("s-{unix}"), unix }),
            clock_offset_ms: Some(0),
            k3s_version: None,
            nodes: self.nodes(world, now),
            runtime_classes: None,
        }
    }

    fn own(&self, world: &World, now: u64) -> Option<OwnMember> {
        let health = world.health(self.machine)?;
        let status = world.status(self.machine);
        let members =
            world.member_list_as_seen_by(self.machine).map_err(|refused| refused.text().to_string());
        let members = members.map(|list| list.iter().map(member).collect());
        let connected =
            world.active_peers(self.machine).into_iter().filter(|(_, since)| now >= since + 5_000);
        Some(OwnMember {
            identity: self.identity(world),
            member_id: status.map_or(0, |status| status.member.0),
            learner: health.is_learner,
            leader: status.and_then(|status| status.leader).map(|id| id.0),
            healthy: health.healthy,
            ready: world.is_ready(self.machine),
            members,
            connected: connected.map(|(id, _)| id.0).collect(),
        })
    }

    fn nodes(&self, world: &World, now: u64) -> Vec<NodeSeen> {
        let grace = world.numbers.node_grace;
        let seen = world.nodes(self.machine).into_iter().flatten().filter_map(|(name, node)| {
            Some(NodeSeen {
                name: name.parse().ok()?,
                ready: now <= node.heartbeat + grace,
                taints: Vec::new(),
                labels: Vec::new(),
                kubelet_version: String::new(),
                runtime_handlers: Vec::new(),
            })
        });
        seen.collect()
    }
}

fn member(member: &k3s_model::cluster::Member) -> EtcdMember {
    let host = k3s_model::config::url_host(&member.peer_url);
    EtcdMember {
        id: member.id.0,
        name: member.name.clone(),
        peer: host.parse().ok(),
        learner: member.learner,
    }
}
