//! One round of the service: look at everything, go one step on, say how it is.

use crate::node::accept::wants_grant;
use crate::node::gate::decide::Way;
use crate::node::gate::record::{self, Kept};
use crate::node::gate::refusal::Refusal;
use crate::node::gate::{GRANT, GateError};
use crate::node::health::{Doing, Seen, status};
use crate::node::kata;
use crate::node::member;
use crate::node::probe::{OwnSeen, others};
use crate::node::service::Service;
use crate::node::timeline::begins;
use crate::node::units::{self, UnitState};
use crate::state::uptime_ms;
use muster_protocol::etcd::{DataFacts, GateRecord, NodeSeen, Outside};
use muster_protocol::ids::{Number, Role};
use muster_protocol::sealed::Secret;
use muster_protocol::status::{State, Status};
use std::net::Ipv4Addr;
use std::time::Duration;
use zeroize::Zeroizing;

/// Local status where LAN and the command `status` find it, in tmpfs.
pub const STATUS: &str = "/run/muster/status";
const STEP: Duration = Duration::from_secs(1);
/// Design §12: status push 5 s. Servers are looked at for the membership gates, whose evidence is 5 s old at most.
const WORKER: Duration = Duration::from_secs(5);
const SERVER: Duration = Duration::from_secs(3);

/// What the last round saw, and what is remembered between rounds.
#[derive(Debug, Default)]
pub(super) struct Last {
    pub(super) unit: UnitState,
    pub(super) own: OwnSeen,
    pub(super) outside: Vec<Outside>,
    /// As the API showed them last; a long list is not asked for in every round.
    pub(super) nodes: Vec<NodeSeen>,
    /// Likewise; `None` while it is not known.
    pub(super) runtime_classes: Option<Vec<String>>,
    /// Our Node as read through the load balancer, or as a server's agent saw it, from the last sync.
    pub(super) node_elsewhere: Option<NodeSeen>,
    pub(super) balancer: Option<bool>,
    pub(super) k3s_version: Option<String>,
    pub(super) kata_files: bool,
    pub(super) server_password: Option<Zeroizing<String>>,
    pub(super) wants_grant: bool,
    /// In no member list any more, though our data says member.
    pub(super) is_removed: bool,
    pub(super) tokens_complete: bool,
    pub(super) was_ready: bool,
    pub(super) sequence: u64,
    /// What the provisioner asked for.
    pub(super) pause: Option<Duration>,
    /// The gate's record as the provisioner was told and answered.
    pub(super) told: Option<GateRecord>,
    pub(super) clock_offset_ms: Option<i64>,
    /// Taken before any list is read (see `record::before`).
    pub(super) before: Option<(GateRecord, DataFacts)>,
}

impl Last {
    /// Rises through one boot, also past a service that was started again: rounds are further apart than a millisecond.
    fn next_sequence(&mut self, uptime_ms: u64) -> u64 {
        self.sequence = uptime_ms.max(self.sequence + 1);
        self.sequence
    }
}

impl Service {
    /// Returns the pause until the next round.
    pub(super) async fn round(&mut self) -> Duration {
        self.look().await;
        self.settle();
        self.go_on().await;
        let status = self.status();
        let pause = self.pause(&status);
        if let Ok(json) = serde_json::to_vec(&status) {
            // Not worth a flush: it is written again in a moment.
            let _lost = std::fs::write(self.root.path(STATUS), json);
        }
        self.board.post(status);
        self.sync();
        pause
    }

    async fn look(&mut self) {
        let server = self.papers.manifest.get().role == Role::Server;
        self.look_at_unit().await;
        if self.last.k3s_version.is_none() && self.k3s().exists() {
            self.last.k3s_version = self.k3s_version().await;
        }
        if !server {
            let (balancer, node) = self.prober.worker(&self.papers.manifest.get().node).await;
            self.last.balancer = Some(balancer);
            self.last.node_elsewhere = node.or(self.last.node_elsewhere.take());
            return;
        }
        self.last.before = match record::before(&self.root) {
            Ok(before) => Some(before),
            Err(error) => {
                self.trouble("record", &error);
                None
            }
        };
        if self.last.server_password.is_none() {
            let token = self.papers.tokens(&self.root).open(Secret::ServerToken);
            self.last.server_password = token.ok().map(|token| Zeroizing::new(token.password().to_owned()));
        }
        let declared = self.papers.manifest.get().k3s.servers.iter().map(|(_, address)| *address);
        let listed = self.last.own.member.as_ref().and_then(|own| own.members.as_deref().ok());
        let others = others(declared, listed.unwrap_or_default(), self.own_address());
        let password = self.last.server_password.clone();
        let now_ms = uptime_ms();
        let outside = self.prober.outside(now_ms, others, password);
        let (own, outside) = tokio::join!(self.prober.own(now_ms), outside);
        self.prober.note(now_ms, &outside);
        if own.member.as_ref().is_none_or(|member| !member.ready) {
            self.last.nodes.clear();
            self.last.runtime_classes = None;
        }
        if let Some(nodes) = &own.nodes {
            self.last.nodes.clone_from(nodes);
        }
        self.last.runtime_classes = own.runtime_classes.clone().or(self.last.runtime_classes.take());
        self.last.own = own;
        self.last.outside = outside;
    }

    /// Only we start it: before that it is down, and need not be asked about each second.
    async fn look_at_unit(&mut self) {
        let known = self.last.unit.is_down() && self.timeline.started_k3s_ms.is_none();
        if known {
            return;
        }
        match units::state(self.unit()).await {
            Ok(unit) => {
                self.troubles.remove("systemd");
                self.last.unit = unit;
            }
            Err(error) => self.trouble("systemd", &error),
        }
    }

    /// What was seen becomes a record: member or not, full tokens.
    fn settle(&mut self) {
        // The gate runs as another process and writes it.
        match Kept::load(&self.root) {
            Ok(kept) => self.papers.kept = kept,
            Err(error) => return self.trouble("record", &error),
        }
        if self.papers.manifest.get().role != Role::Server {
            return;
        }
        let disk = record::look(&self.root);
        let (kept, outside) = (&self.papers.kept, &self.last.outside);
        self.last.is_removed = member::is_removed(kept, &disk, outside, self.own_address());
        if self.last.is_removed {
            self.trouble_text(
                "member",
                "this member was removed from the cluster; it needs a new grant".into(),
            );
        } else {
            self.troubles.remove("member");
        }
        let Some(own) = &self.last.own.member else { return };
        let seen = member::Seen {
            node: &self.papers.manifest.get().node,
            address: self.own_address(),
            disk: &disk,
            own,
            told: self.last.told.as_ref(),
        };
        match member::next(&self.papers.kept, seen) {
            Ok(None) => drop(self.troubles.remove("record")),
            Ok(Some(next)) => match next.save(&self.root) {
                Ok(()) => {
                    if next.record != self.papers.kept.record {
                        tracing::info!("this node is a member of the cluster");
                    }
                    self.papers.kept = next;
                    self.troubles.remove("record");
                }
                Err(error) => self.trouble("record", &error),
            },
            Err(why) => self.trouble_text("record", why),
        }
        self.complete_tokens();
    }

    /// The init server's bare passwords become full tokens once k3s has made the CA.
    fn complete_tokens(&mut self) {
        let GateRecord::Member { .. } = self.papers.kept.record else { return };
        if self.last.tokens_complete {
            return;
        }
        match self.papers.tokens(&self.root).complete_from_k3s() {
            Ok(()) => {
                self.last.tokens_complete = true;
                self.last.server_password = None;
                self.troubles.remove("token");
            }
            Err(error) => self.trouble("token", &error),
        }
    }

    /// One step towards a running k3s.
    async fn go_on(&mut self) {
        let now_ms = uptime_ms();
        if kata::is_there(&self.root) && self.timeline.kata_in_place_ms.is_none() {
            self.timeline.kata_in_place_ms = Some(now_ms);
            self.timeline.keep(&self.root);
        }
        self.prepare_if_due();
        let rests = self.last.unit.is_down() || self.last.unit.will_restart;
        let lies_ready = self.root.exists(GRANT);
        self.last.wants_grant = self.is_placed()
            && ((rests && wants_grant(&self.root, &self.papers)) || (self.last.is_removed && !lies_ready));
        if self.last.is_removed && lies_ready && !rests {
            tracing::info!(unit = self.unit(), "restarting, to join anew");
            if let Err(error) = units::restart(self.unit()).await {
                self.trouble("systemd", &error);
            }
        } else if self.last.unit.active == "active" && lies_ready {
            // Left over from a start that needed none: nothing may lie there when k3s restarts.
            if let Err(error) = self.root.remove(GRANT) {
                self.trouble("grant", &error);
            }
        }
        if self.is_placed() && self.last.unit.is_down() {
            match self.may_start() {
                Ok(()) => {
                    self.troubles.remove("gate");
                    self.start_k3s(now_ms).await;
                }
                Err(why) => self.trouble_text("gate", why),
            }
        } else if self.last.unit.active == "active" {
            self.troubles.remove("gate");
        }
        self.milestones(now_ms);
    }

    /// All files are verified; or k3s ran here before, and a member waits for nobody.
    fn is_placed(&self) -> bool {
        self.prepared.is_some() || (self.papers.kept.started && self.k3s().exists())
    }

    /// What the gate would say, without asking anyone; so that no unit is started only to be refused.
    fn may_start(&self) -> Result<(), String> {
        let tokens = self.papers.tokens(&self.root);
        if self.papers.manifest.get().role == Role::Worker {
            return tokens.open(Secret::AgentToken).map(drop).map_err(|error| error.to_string());
        }
        match self.papers.preview(&self.root) {
            Ok(allowed) => match allowed.way {
                Way::Join { .. } => tokens
                    .open(Secret::ServerToken)
                    .and_then(|_| tokens.open(Secret::AgentToken))
                    .map(drop)
                    .map_err(|error| error.to_string()),
                Way::Init { .. } | Way::Resume => Ok(()),
            },
            Err(GateError::Refused(refusal @ Refusal::NoGrant)) => Err(refusal.to_string()),
            Err(error) => Err(match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }),
        }
    }

    async fn start_k3s(&mut self, now_ms: u64) {
        if !self.clock_will_do(now_ms) {
            return;
        }
        tracing::info!(unit = self.unit(), "starting");
        if self.timeline.started_k3s_ms.is_none() {
            begins(&self.root, "joined");
        }
        match units::start(self.unit()).await {
            Ok(()) => {
                self.troubles.remove("systemd");
                if self.timeline.started_k3s_ms.is_none() {
                    self.timeline.started_k3s_ms = Some(now_ms);
                    self.timeline.keep(&self.root);
                }
            }
            Err(error) => self.trouble("systemd", &error),
        }
    }

    /// `joined` and `ready`, each once a boot.
    fn milestones(&mut self, now_ms: u64) {
        let joined = match self.papers.manifest.get().role {
            Role::Server => self.last.own.member.as_ref().is_some_and(|own| !own.learner && own.ready),
            Role::Worker => self.last.balancer == Some(true),
        };
        if let (true, Some(started_ms)) = (joined, self.timeline.started_k3s_ms) {
            if !self.timeline.has("joined") {
                begins(&self.root, "ready");
            }
            self.timeline.add(&self.root, "joined", started_ms, now_ms);
        }
    }

    fn status(&mut self) -> Status {
        let manifest = self.papers.manifest.get();
        let in_place_ms = self.timeline.kata_in_place_ms.unwrap_or(0);
        let kata = manifest
            .kata
            .as_ref()
            .and_then(|_| kata::look(&self.root, &manifest.k3s.version, self.last.kata_files, in_place_ms));
        let here = self.last.nodes.iter().find(|node| node.name == manifest.node).cloned();
        let seen = Seen {
            unit: self.last.unit.clone(),
            k3s_version: self.last.k3s_version.clone(),
            started: self.papers.kept.started,
            member: self.last.own.member.clone(),
            kata,
            node: here.or_else(|| self.last.node_elsewhere.clone()),
            balancer: self.last.balancer,
        };
        let sequence = self.last.next_sequence(uptime_ms());
        let doing = |stages, address| Doing {
            sequence,
            uptime_ms: uptime_ms(),
            was_ready: self.last.was_ready,
            step: self.meter.read(),
            troubles: self
                .troubles
                .iter()
                .filter(|(about, _)| **about != "provisioner")
                .map(|(_, text)| first_line(text))
                .collect(),
            away: self.troubles.get("provisioner").map(|text| first_line(text)),
            stages,
            address,
        };
        let address = self.still.boot.address.map(|cidr| cidr.address);
        let made =
            status(&self.root, &self.still, manifest, &seen, doing(self.timeline.stages().to_vec(), address));
        if made.state != State::Ready || self.last.was_ready {
            return made;
        }
        self.last.was_ready = true;
        let now_ms = uptime_ms();
        let since = self.timeline.end_of("joined").unwrap_or(now_ms);
        self.timeline.add(&self.root, "ready", since, now_ms);
        Status { stages: self.timeline.stages().to_vec(), ..made }
    }

    /// Short while something moves, else what the provisioner asked for, within our own bounds.
    fn pause(&self, status: &Status) -> Duration {
        let longest = match self.papers.manifest.get().role {
            Role::Server => SERVER,
            Role::Worker => WORKER,
        };
        let moving = match status.state {
            State::Ready | State::Degraded | State::Failed => false,
            State::Netbooted
            | State::Waiting
            | State::Installing
            | State::Booting
            | State::Installed
            | State::Joining => true,
        };
        if moving || status.step.is_some() || self.ledger.is_busy() {
            return STEP;
        }
        self.last.pause.unwrap_or(longest).clamp(Duration::from_millis(500), longest)
    }

    pub(super) fn unit(&self) -> &'static str {
        match self.papers.manifest.get().role {
            Role::Server => "k3s.service",
            Role::Worker => "k3s-agent.service",
        }
    }

    pub(super) fn own_address(&self) -> Ipv4Addr {
        let declared = self.papers.manifest.get().network.address.or(self.still.boot.address);
        declared.map_or(Ipv4Addr::UNSPECIFIED, |cidr| cidr.address)
    }

    /// The order that the marker calls installed.
    pub(super) fn installed(&self) -> Option<Number> {
        self.still.boot.order
    }
}

/// Hints are for the log; a status has one line per reason.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbered_upwards_also_by_a_service_that_was_started_again() {
        let mut last = Last::default();
        let told = [5000, 5000, 4999, 6000].map(|uptime_ms| last.next_sequence(uptime_ms));
        assert_eq!(told, [5000, 5001, 5002, 6000]);
        assert_eq!(Last::default().next_sequence(6500), 6500);
    }
}
