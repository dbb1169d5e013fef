//! The exchange with the provisioner: what this node tells, and what it takes from the reply.

use crate::node::accept::{self, NotTaken};
use crate::node::clock::Sample;
use crate::node::commands::{self, Take};
use crate::node::gate::Papers;
use crate::node::service::{Service, Synced};
use crate::node::tokens::{TokenError, system_rng};
use crate::node::{files, unix_ms};
use crate::state::uptime_ms;
use crate::talk::Provisioner;
use muster_protocol::etcd::{GateRecord, ServerReport};
use muster_protocol::grant::{Command, CommandResult};
use muster_protocol::ids::{Number, Role};
use muster_protocol::keys::Fingerprint;
use muster_protocol::sealed::SealedBox;
use muster_protocol::signed::{Signed, Verified};
use muster_protocol::sync::{SyncReply, SyncRequest};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Boxes are told again after this, for a provisioner whose store was restored meanwhile.
const BOXES_AGAIN_MS: u64 = 600_000;
/// Recipients told in one exchange; its body is bounded.
const MAX_RECIPIENTS: usize = 64;
/// Of a cluster with more RuntimeClasses (names of up to 253 bytes) none is told, for the same reason.
const MAX_CLASSES: usize = 256;

/// The way to the provisioner.
pub(super) struct Uplink {
    pub(super) at: Option<SocketAddr>,
    pub(super) http_port: u16,
    pub(super) failures: u32,
    talk: Option<Provisioner>,
    /// When whose boxes were taken, in our uptime.
    boxes: BTreeMap<Fingerprint, u64>,
}

impl Uplink {
    pub(super) fn new(at: Option<SocketAddr>, http_port: u16) -> Self {
        Self { at, http_port, failures: 0, talk: None, boxes: BTreeMap::new() }
    }

    pub(super) fn turn_to(&mut self, at: SocketAddr, http_port: u16) {
        if self.at != Some(at) {
            self.talk = None;
        }
        (self.at, self.http_port) = (Some(at), http_port);
    }

    /// Where artifacts come from: the provisioner's other port.
    pub(super) fn artifacts(&self) -> Option<SocketAddr> {
        self.at.map(|at| SocketAddr::new(at.ip(), self.http_port))
    }
}

/// What a request carried, to be settled when it was answered.
pub(super) struct Sent {
    results: Vec<CommandResult>,
    record: Option<GateRecord>,
    recipients: Vec<Fingerprint>,
    nonce: Option<[u8; 16]>,
}

impl Service {
    /// Starts an exchange, unless one is under way or there is nobody to talk to.
    pub(super) fn sync(&mut self) {
        let Some(at) = self.uplink.at else { return };
        if self.syncing.is_some() {
            return;
        }
        let talk = match self.uplink.talk.take() {
            Some(talk) => talk,
            None => match Provisioner::new(at, &self.papers.trust, &self.papers.key) {
                Ok(talk) => talk,
                Err(error) => return self.trouble("provisioner", &error),
            },
        };
        let Some((request, sent)) = self.request() else { return };
        let mut talk = talk;
        self.syncing = Some(tokio::spawn(async move {
            let asked = Instant::now();
            let reply = talk.sync(&request).await;
            // Here, not where it is taken: the loop may be busy for a while.
            Synced { talk, sent, round_trip: asked.elapsed(), received_ms: unix_ms(), reply }
        }));
    }

    fn request(&mut self) -> Option<(SyncRequest, Sent)> {
        let status = self.board.status()?;
        let seen = match self.root.numbers() {
            Ok(numbers) => numbers.seen(),
            Err(error) => {
                self.trouble("numbers", &error);
                return None;
            }
        };
        let mut nonce = [0; 16];
        let nonce = getrandom::fill(&mut nonce).is_ok().then_some(nonce);
        let (boxes, recipients) = self.boxes();
        let server = self.report();
        let results = self.ledger.results();
        let sent = Sent {
            results: results.clone(),
            record: server.as_ref().map(|server| server.record.clone()),
            recipients,
            nonce,
        };
        let request = SyncRequest {
            status,
            seen,
            installed: self.installed(),
            server,
            wants_grant: self.last.wants_grant,
            results,
            boxes,
            clock_nonce: nonce,
        };
        Some((request, sent))
    }

    fn report(&self) -> Option<ServerReport> {
        if self.papers.manifest.get().role != Role::Server {
            return None;
        }
        let (record, data) = self.last.before.clone()?;
        Some(ServerReport {
            data,
            granted: self.papers.granted(&self.root, &record),
            record,
            unit: self.last.unit.active.clone(),
            own: self.last.own.member.clone(),
            outside: self.last.outside.clone(),
            newest_snapshot: self.prober.newest_snapshot(),
            clock_offset_ms: self.last.clock_offset_ms,
            k3s_version: self.last.k3s_version.clone(),
            nodes: self.last.nodes.clone(),
            runtime_classes: self.last.runtime_classes.clone().filter(|names| names.len() <= MAX_CLASSES),
        })
    }

    /// Tokens for others, from a member whose own are complete.
    fn boxes(&mut self) -> (Vec<Signed<SealedBox>>, Vec<Fingerprint>) {
        let nothing = (Vec::new(), Vec::new());
        let (Some(roster), true) = (&self.roster, self.last.tokens_complete) else { return nothing };
        let now_ms = uptime_ms();
        let due = |print: &Fingerprint| {
            self.uplink.boxes.get(print).is_none_or(|at| now_ms.saturating_sub(*at) >= BOXES_AGAIN_MS)
        };
        let me = self.still.key;
        let nodes = roster.nodes.iter().map(|node| node.key.fingerprint());
        let recipients: Vec<_> = [roster.recovery.fingerprint()]
            .into_iter()
            .chain(nodes)
            .filter(|print| *print != me && due(print))
            .take(MAX_RECIPIENTS)
            .collect();
        if recipients.is_empty() {
            return nothing;
        }
        let wanted = |print| recipients.contains(&print);
        match self.papers.tokens(&self.root).for_others(roster, &wanted, &mut system_rng()) {
            Ok(boxes) => (boxes, recipients),
            Err(error) => {
                self.trouble("token", &error);
                nothing
            }
        }
    }

    /// Takes what came back. Returns when the next round is wanted.
    pub(super) fn take(&mut self, synced: Synced) -> Instant {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        if self.uplink.at == Some(synced.talk.at()) {
            self.uplink.talk = Some(synced.talk);
        }
        let reply = match synced.reply {
            Ok(reply) => reply,
            Err(error) => {
                self.uplink.failures += 1;
                self.trouble("provisioner", &error);
                return later;
            }
        };
        self.uplink.failures = 0;
        if self.troubles.contains_key("provisioner") {
            self.try_again_now();
        }
        // Being away is no trouble of the node; it was told while it lasted.
        self.troubles.remove("provisioner");
        let sent = synced.sent;
        self.last.told = sent.record;
        let now_ms = uptime_ms();
        self.uplink.boxes.extend(sent.recipients.into_iter().map(|print| (print, now_ms)));
        let asked: Vec<Number> = self.asked(&reply);
        self.ledger.settle(&sent.results, &asked);
        let clock = sent.nonce.zip(reply.clock.as_ref());
        if let Some(said) = clock.and_then(|(nonce, clock)| accept::clock(&self.papers.trust, nonce, clock)) {
            let round_trip = u64::try_from(synced.round_trip.as_millis()).unwrap_or(u64::MAX);
            self.compare_clocks(Sample::new(said, round_trip, synced.received_ms, now_ms));
        }
        self.last.pause = Some(Duration::from_millis(reply.next_ms.into()));
        self.last.node_elsewhere = reply.node.clone().or(self.last.node_elsewhere.take());
        if self.take_news(&reply) { now } else { later }
    }

    /// Numbers of the commands that the provisioner still asks for.
    fn asked(&self, reply: &SyncReply) -> Vec<Number> {
        let believed = |signed| self.believed(signed).map(|command| command.get().fence);
        reply.commands.iter().filter_map(believed).collect()
    }

    fn believed(&self, signed: &Signed<Command>) -> Option<Verified<Command>> {
        use muster_protocol::signed::{By, Listener};
        signed.verify(By::Online(&self.papers.trust), &Listener::default()).ok()
    }

    /// Whether anything new is in force, so that the next round should come at once.
    fn take_news(&mut self, reply: &SyncReply) -> bool {
        let mut news = false;
        let now = Some(unix_ms() / 1000).filter(|now| *now >= self.papers.trust.build_epoch);
        if let Some(signed) = &reply.manifest {
            let taken = accept::manifest(&self.root, &self.papers, self.still.boot.detected, now, signed);
            news |= self.noted("manifest", taken).is_some();
        }
        if let Some(signed) = &reply.roster {
            let taken = accept::roster(&self.root, &self.papers.trust, signed);
            if let Some(roster) = self.noted("roster", taken) {
                self.board.trust_roster(roster.clone());
                self.roster = Some(roster);
                news = true;
            }
        }
        if news {
            self.reread();
        }
        for signed in &reply.boxes {
            let taken = accept::sealed(&self.root, &self.papers, signed);
            if self.noted("box", taken) == Some(true) {
                self.last.server_password = None;
                news = true;
            }
        }
        if let Some(signed) = &reply.grant {
            let taken = accept::grant(&self.root, &self.papers, self.last.is_removed, signed);
            news |= self.noted("grant", taken) == Some(true);
        }
        self.take_commands(reply, now);
        news
    }

    fn noted<T>(&mut self, about: &'static str, taken: Result<T, NotTaken>) -> Option<T> {
        match taken {
            Ok(value) => {
                self.troubles.remove(about);
                Some(value)
            }
            // Sealed to an earlier key of ours, or by a server that is no more: the next one will do.
            Err(NotTaken::Token(TokenError::UnknownSender | TokenError::Seal(_))) => None,
            Err(error) => {
                self.trouble(about, &error);
                None
            }
        }
    }

    /// A new manifest or roster is in force: everything that follows from it follows.
    fn reread(&mut self) {
        match Papers::read(&self.root) {
            Ok(papers) => {
                if papers.manifest.get() != self.papers.manifest.get() {
                    tracing::info!(number = %papers.manifest.get().number, "a new manifest is in force");
                    self.prepared = None;
                    self.try_again_now();
                    self.last.k3s_version = None;
                }
                self.papers = papers;
            }
            Err(error) => return self.trouble("papers", &error),
        }
        let address = self.still.boot.address.map(|cidr| cidr.address);
        if let Err(error) = files::write(&self.root, self.papers.manifest.get(), address) {
            self.trouble("hosts", &error);
        }
    }

    /// Begins the oldest command that is new; the others come again with the next reply.
    fn take_commands(&mut self, reply: &SyncReply, now: Option<u64>) {
        let numbers = match self.root.numbers() {
            Ok(numbers) => numbers,
            Err(error) => return self.trouble("numbers", &error),
        };
        let mut new: Option<Verified<Command>> = None;
        let node = self.papers.manifest.get().node.clone();
        for signed in &reply.commands {
            match self.ledger.take(signed, &self.papers.trust, &numbers, (&node, self.still.key), now) {
                Take::Run(command) => {
                    if new.as_ref().is_none_or(|older| command.get().fence < older.get().fence) {
                        new = Some(command);
                    }
                }
                Take::Known => {}
                Take::Unknown(fence) => {
                    let why = "it was begun before this agent was restarted; what came of it is not known";
                    self.ledger.ended(fence, Err(why.into()));
                }
                Take::Refused(why) => tracing::warn!(%why, "a command is not believed"),
            }
        }
        let Some(command) = new.filter(|_| !self.ledger.is_busy()) else { return };
        if let Err(error) = self.ledger.begin(&self.root, &command) {
            return self.trouble("numbers", &error);
        }
        let (k3s, nodes) = (self.k3s(), self.last.nodes.clone());
        let Command { fence, action, .. } = command.into_inner();
        tracing::info!(%fence, "running a command");
        self.running = Some(tokio::spawn(async move { (fence, commands::run(&k3s, &action, &nodes).await) }));
    }
}
