//! One history: time passes, faults happen, the shipped decisions are taken, and the invariants are looked at.

use crate::faults::{Fault, Menu, draw};
use crate::invariants::{Violation, Watch};
use crate::luck::Luck;
use crate::node::{GateBug, Node};
use crate::provisioner::{Provisioner, ProvisionerBug, Store};
use k3s_model::numbers::Numbers;
use k3s_model::world::{Server as Machine, World};
use muster::cluster::evidence::{Heard, Server};
use muster::cluster::record::Cluster;
use muster_protocol::etcd::GateRecord;
use muster_protocol::grant::{Action, Grant};
use muster_protocol::ids::Number;
use muster_protocol::keys::Fingerprint;
use std::net::Ipv4Addr;

const STEP_MS: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Simulated time with faults.
    pub stormy_ms: u64,
    /// Then everything is healed and left alone.
    pub calm_ms: u64,
    /// One fault in about so many milliseconds.
    pub fault_every_ms: u64,
    pub menu: Menu,
    pub gate: GateBug,
    pub provisioner: ProvisionerBug,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        // A disk and the store that are lost together take the knowledge of the last number with them: not both in one.
        let disks = seed % 3 == 1;
        let menu = Menu { disks, copies: !disks && seed % 4 == 2 };
        Self {
            seed,
            stormy_ms: 90_000,
            calm_ms: if menu.disks || menu.copies { 0 } else { 150_000 },
            fault_every_ms: 4_000 + seed % 7 * 2_000,
            menu,
            gate: GateBug::None,
            provisioner: ProvisionerBug::None,
        }
    }
}

/// How a history ended, if no invariant broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub voters: usize,
    pub lock_free: bool,
    pub up: bool,
    pub waiting: Vec<String>,
    pub faults: Vec<(u64, Fault)>,
}

/// An invariant broke, and what had befallen until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub violation: Violation,
    pub at_ms: u64,
    pub faults: Vec<(u64, Fault)>,
}

#[derive(Debug, Clone)]
enum Message {
    Report { from: usize, sequence: u64, heard: Box<Heard> },
    Grant { to: usize, grant: Grant },
    Command { to: usize, action: Action },
}

pub struct History {
    plan: Plan,
    luck: Luck,
    now: u64,
    world: World,
    nodes: Vec<Node>,
    /// The highest fence each node has persisted.
    seen: Vec<Number>,
    reaches_provisioner: Vec<bool>,
    provisioner: Provisioner,
    copy: Option<Store>,
    wire: Vec<(u64, Message)>,
    watch: Watch,
    crash_next: bool,
    faults: Vec<(u64, Fault)>,
}

impl History {
    pub fn new(plan: Plan) -> Self {
        let machines =
            [("mini-pc-1", "10.77.0.11"), ("mini-pc-2", "10.77.0.12"), ("mini-pc-3", "10.77.0.13")];
        let world = World::new(Numbers::SCALED, plan.seed, &machines);
        let servers: Vec<Server> = machines
            .iter()
            .map(|(name, address)| Server {
                name: name.parse().expect("a valid name above"),
                address: address.parse().expect("a valid address above"),
            })
            .collect();
        let nodes: Vec<Node> = world
            .servers()
            .zip(&servers)
            .map(|(machine, server)| Node::new(machine, server.clone()))
            .collect();
        Self {
            plan,
            luck: Luck::new(plan.seed),
            now: 0,
            world,
            seen: vec![Number::default(); nodes.len()],
            reaches_provisioner: vec![true; nodes.len()],
            nodes,
            provisioner: Provisioner::new(servers, plan.provisioner),
            copy: None,
            wire: Vec::new(),
            watch: Watch::default(),
            crash_next: false,
            faults: Vec::new(),
        }
    }

    pub fn run(mut self) -> Result<Outcome, Broken> {
        let end = self.plan.stormy_ms + self.plan.calm_ms;
        while self.now < end {
            self.now += STEP_MS;
            let stormy = self.now <= self.plan.stormy_ms;
            if stormy && self.luck.once_in(self.plan.fault_every_ms / STEP_MS) {
                let fault = draw(&mut self.luck, self.plan.menu, self.nodes.len() as u64);
                self.faults.push((self.now, fault));
                self.befall(fault);
            }
            if !stormy && self.now - STEP_MS <= self.plan.stormy_ms {
                self.calm();
            }
            if let Err(violation) = self.step(stormy) {
                return Err(Broken { violation, at_ms: self.now, faults: self.faults });
            }
        }
        Ok(self.outcome())
    }

    fn step(&mut self, stormy: bool) -> Result<(), Violation> {
        let events = self.world.tick(self.now);
        self.watch.events(&events)?;
        let peers: Vec<(Machine, Ipv4Addr)> =
            self.nodes.iter().map(|node| (node.machine, node.server.address)).collect();
        for at in 0..self.nodes.len() {
            self.nodes[at].supervise(&mut self.world, &peers, self.now, self.plan.gate);
            self.nodes[at].record_membership(&self.world);
            self.send_report(at, &peers, stormy);
        }
        self.deliver(stormy)?;
        self.watch.look(&self.world, &self.nodes)
    }

    fn send_report(&mut self, at: usize, peers: &[(Machine, Ipv4Addr)], stormy: bool) {
        let node = &mut self.nodes[at];
        if !node.powered || self.now < node.next_report {
            return;
        }
        node.next_report = self.now + 1_000 + self.luck.below(2_000);
        let heard = Box::new(Heard {
            at_ms: self.now,
            key: Fingerprint([0; 10]),
            report: node.report(&self.world, peers, self.now),
            wants_grant: node.wants_grant,
            installation: Number { n: node.installation, ..Number::default() },
            seen_fence: self.seen[at].max(node.kept.fence),
        });
        let message = Message::Report { from: at, sequence: node.sequence, heard };
        if self.reaches_provisioner[at] {
            self.send(message, 2_000, stormy);
        }
    }

    /// Lost, late, or doubled while it storms.
    fn send(&mut self, message: Message, late_ms: u64, stormy: bool) {
        if stormy && self.luck.once_in(8) {
            return;
        }
        let due = self.now + self.luck.below(late_ms);
        if stormy && self.luck.once_in(8) {
            self.wire.push((due + self.luck.below(20_000), message.clone()));
        }
        self.wire.push((due, message));
    }

    fn deliver(&mut self, stormy: bool) -> Result<(), Violation> {
        let (due, later) = std::mem::take(&mut self.wire).into_iter().partition(|(at, _)| *at <= self.now);
        self.wire = later;
        for (_, message) in due {
            match message {
                Message::Report { from, sequence, mut heard } => {
                    if self.provisioner.alive {
                        let name = self.nodes[from].server.name.clone();
                        heard.at_ms = self.now;
                        self.provisioner.hear(&name, sequence, *heard);
                        self.turn(from, stormy)?;
                    }
                }
                Message::Grant { to, grant } => {
                    // The node service persists what it accepted and refuses anything older.
                    if self.nodes[to].powered && grant.fence >= self.seen[to] {
                        self.seen[to] = grant.fence;
                        self.watch.accepted(grant.fence);
                        let fence = grant.fence;
                        self.nodes[to].grant = Some(grant);
                        self.nodes[to].start_at = self.now;
                        // A newer fence for a node that is no member yet: the attempt that runs is over.
                        let node = &self.nodes[to];
                        let member = matches!(node.kept.record, GateRecord::Member { .. });
                        if !member && fence > node.kept.fence {
                            self.world.kill(node.machine, self.now);
                        }
                    }
                }
                Message::Command { to, action: Action::Snapshot { .. } } => {
                    let ready = self.world.is_ready(self.nodes[to].machine);
                    if ready {
                        self.nodes[to].snapshot = Some(self.now / 1000);
                    }
                    let name = self.nodes[to].server.name.clone();
                    self.provisioner.forget_command(&name);
                }
                Message::Command { action: Action::Apply { .. } | Action::Label { .. }, .. } => {}
            }
        }
        Ok(())
    }

    fn turn(&mut self, from: usize, stormy: bool) -> Result<(), Violation> {
        let before = self.provisioner.store.clone();
        let crash = std::mem::take(&mut self.crash_next);
        let sent = self.provisioner.turn(&mut self.luck, self.now, crash);
        if crash {
            self.hang_up_all();
        }
        self.watch.turn(&before, &self.provisioner.store, &self.world, &self.nodes)?;
        // A grant travels in the reply to its own node's report, never by itself.
        let asker = &self.nodes[from].server.name;
        if let Some(grant) = sent.grants.into_iter().find(|grant| grant.node == *asker)
            && self.reaches_provisioner[from]
        {
            self.send(Message::Grant { to: from, grant }, 2_000, stormy);
        }
        let index = |nodes: &[Node], name| nodes.iter().position(|node| node.server.name == name);
        for (node, action) in sent.commands {
            if let Some(to) = index(&self.nodes, node) {
                self.send(Message::Command { to, action }, 2_000, stormy);
            }
        }
        Ok(())
    }

    /// A reply travels to one process over one connection: when that is gone, so is the reply.
    fn hang_up(&mut self, at: usize) {
        self.wire.retain(|(_, message)| !matches!(message, Message::Grant { to, .. } if *to == at));
    }

    /// No connection outlives the provisioner's process: neither questions nor answers.
    fn hang_up_all(&mut self) {
        self.wire.retain(|(_, message)| matches!(message, Message::Command { .. }));
    }

    fn befall(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::KillK3s(at) => self.world.kill(self.nodes[at].machine, now),
            Fault::Reboot(at) | Fault::PowerOff(at) => {
                self.world.kill(self.nodes[at].machine, now);
                self.hang_up(at);
                self.nodes[at].grant = None;
                self.nodes[at].wants_grant = false;
                self.nodes[at].powered = matches!(fault, Fault::Reboot(_));
                self.nodes[at].start_at = now + 10_000;
            }
            Fault::PowerOn(at) => self.nodes[at].powered = true,
            Fault::LoseDisk(at) => {
                self.world.wipe(self.nodes[at].machine, now);
                self.hang_up(at);
                let fresh = Node::new(self.nodes[at].machine, self.nodes[at].server.clone());
                let (sequence, installation) = (self.nodes[at].sequence, self.nodes[at].installation + 1);
                self.nodes[at] = Node { start_at: now + 20_000, sequence, installation, ..fresh };
                self.seen[at] = Number::default();
            }
            Fault::CutPeers(at) => {
                let rest: Vec<Machine> = self
                    .nodes
                    .iter()
                    .map(|node| node.machine)
                    .filter(|m| *m != self.nodes[at].machine)
                    .collect();
                self.world.partition(&[&rest, &[self.nodes[at].machine]], now);
            }
            Fault::CutProvisioner(at) => self.reaches_provisioner[at] = false,
            Fault::HealAll => {
                self.world.heal(now);
                self.reaches_provisioner.fill(true);
            }
            Fault::KillProvisioner => {
                self.provisioner.alive = false;
                self.hang_up_all();
            }
            Fault::CrashInTurn => self.crash_next = true,
            Fault::StartProvisioner => {
                if !self.provisioner.alive {
                    self.provisioner.restart();
                }
            }
            Fault::CopyStore => self.copy = Some(self.provisioner.store.clone()),
            Fault::PutCopyBack => {
                if let Some(copy) = self.copy.clone() {
                    self.provisioner.store = copy;
                    self.hang_up_all();
                    if self.plan.provisioner == ProvisionerBug::NumbersRestart {
                        self.provisioner.store.counter = Number::default();
                    }
                    self.provisioner.restart();
                }
            }
            Fault::RestoreCopy => {
                if let Some(copy) = self.copy.clone() {
                    let highest = self.seen.iter().max().map_or(0, |number| number.generation);
                    let generation = highest.max(self.provisioner.store.counter.generation) + 1;
                    self.provisioner.store = copy;
                    self.hang_up_all();
                    self.provisioner.store.counter =
                        Number { generation, n: 0, ..self.provisioner.store.counter };
                    self.provisioner.restart();
                }
            }
        }
    }

    /// The storm is over: everything is on, whole and connected.
    fn calm(&mut self) {
        self.befall(Fault::HealAll);
        self.befall(Fault::StartProvisioner);
        self.crash_next = false;
        self.nodes.iter_mut().for_each(|node| node.powered = true);
    }

    fn outcome(&self) -> Outcome {
        let lists = self.nodes.iter().filter_map(|node| self.world.member_list_as_seen_by(node.machine).ok());
        Outcome {
            voters: lists.map(|list| list.iter().filter(|m| !m.learner).count()).max().unwrap_or(0),
            lock_free: self.provisioner.store.record.lock.is_none(),
            up: matches!(self.provisioner.store.record.cluster, Cluster::Up { .. }),
            waiting: self.provisioner.waiting.iter().map(|(name, why)| format!("{name}: {why}")).collect(),
            faults: self.faults.clone(),
        }
    }
}
