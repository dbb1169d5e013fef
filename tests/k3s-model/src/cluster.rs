//! One etcd cluster: its members, its one learner, the gates of adding, promoting and removing, and the Nodes kept in it.
//!
//! Who is up and connected is an argument; the world knows it.

use crate::ids::{CaHash, ClusterId, MemberId};
use crate::numbers::{AddRule, Numbers};
use crate::texts;
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// A member as the member list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// None until it has started once.
    pub name: Option<String>,
    pub peer_url: String,
    pub learner: bool,
}

/// A Node object, as far as removal looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObject {
    /// The etcd role label with the annotations node-name and node-address; without them a removal misses.
    pub etcd: Option<(String, String)>,
    /// Last heartbeat of its kubelet.
    pub heartbeat: u64,
    /// Stays `true` on a dead server: nobody else writes it.
    pub is_voter: bool,
}

/// A cluster, as its leader sees it.
#[derive(Clone, Debug)]
pub struct EtcdModel {
    pub ca: CaHash,
    pub id: ClusterId,
    pub leader: Option<MemberId>,
    pub nodes: BTreeMap<String, NodeObject>,
    members: Vec<Tracked>,
}

#[derive(Clone, Debug)]
struct Tracked {
    member: Member,
    /// In step with this leader's log. Known by the leader only: it stays true for a member that died, and is forgotten with
    /// the leader.
    in_step: bool,
    /// Kept in the datastore (k3s/etcd/learnerProgress), so a new leader knows it.
    progressed: u64,
}

/// Voters connected to the leader, as the transport counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Up now, the leader among them.
    pub now: usize,
    /// Up for as long as a member add wants, the leader among them.
    pub long: usize,
}

/// Why etcd refuses a membership change; `text()` is its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TimedOut,
    Unhealthy,
    TooManyLearners,
    PeerUrlExists,
    NotFound,
    NotLearner,
    NotInSync,
    NotEnoughStarted,
}

/// What the leader's tick did to a learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticked {
    Promoted(Member),
    Evicted(Member),
}

impl Refused {
    pub fn text(self) -> &'static str {
        match self {
            Self::TimedOut => texts::REQUEST_TIMED_OUT,
            Self::Unhealthy => texts::UNHEALTHY,
            Self::TooManyLearners => texts::TOO_MANY_LEARNERS,
            Self::PeerUrlExists => texts::MEMBER_EXISTS,
            Self::NotFound => texts::MEMBER_NOT_FOUND,
            Self::NotLearner => texts::NOT_A_LEARNER,
            Self::NotInSync => texts::LEARNER_NOT_READY,
            Self::NotEnoughStarted => texts::NOT_ENOUGH_STARTED,
        }
    }
}

pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl EtcdModel {
    /// A new cluster of one.
    pub fn founded(ca: CaHash, name: String, peer_url: String, now: u64) -> Self {
        let id = MemberId::derive(&peer_url, None);
        let member = Member { id, name: Some(name), peer_url, learner: false };
        Self {
            ca,
            id: ClusterId::derive(&[id]),
            leader: Some(id),
            nodes: BTreeMap::new(),
            members: Vec::from([Tracked { member, in_step: true, progressed: now }]),
        }
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|t| &t.member)
    }

    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members().find(|m| m.id == id)
    }

    pub fn voters(&self) -> usize {
        self.members().filter(|m| !m.learner).count()
    }

    pub fn quorum(&self) -> usize {
        quorum(self.voters())
    }

    /// MemberAddAsLearner. The health gate comes first (before the proposal), the count of learners second (when it is applied).
    pub fn add_learner(
        &mut self,
        peer_url: &str,
        connected: Connected,
        rule: AddRule,
        now: u64,
    ) -> Result<MemberId, Refused> {
        let n = self.voters();
        if connected.now < quorum(n) {
            return Err(Refused::TimedOut);
        }
        let needed = match rule {
            AddRule::QuorumOfNext if n == 1 => 1,
            AddRule::QuorumOfNext => quorum(n + 1),
            AddRule::AllVoters => n,
        };
        // a lone voter has nobody to be connected with
        let have = if n == 1 { connected.now } else { connected.long };
        if have < needed {
            return Err(Refused::Unhealthy);
        }
        if self.members().any(|m| m.peer_url == peer_url) {
            return Err(Refused::PeerUrlExists);
        }
        if self.members().any(|m| m.learner) {
            return Err(Refused::TooManyLearners);
        }
        let id = MemberId::derive(peer_url, Some(now / 1000));
        let member = Member { id, name: None, peer_url: String::from(peer_url), learner: true };
        self.members.push(Tracked { member, in_step: false, progressed: now });
        Ok(id)
    }

    /// A member has started and tells its name.
    pub fn publish(&mut self, id: MemberId, name: &str) {
        if let Some(t) = self.tracked(id) {
            t.member.name = Some(String::from(name));
        }
    }

    /// A member that the leader hears from is in step with it.
    pub fn progress(&mut self, id: MemberId, now: u64) {
        if let Some(t) = self.tracked(id) {
            t.in_step = true;
            t.progressed = now;
        }
    }

    /// A new leader knows nothing yet of what the others hold.
    pub fn elect(&mut self, leader: Option<MemberId>) {
        self.leader = leader;
        for t in &mut self.members {
            t.in_step = Some(t.member.id) == leader;
        }
    }

    /// MemberPromote on the leader: looks at log progress only, not at whether the learner is alive.
    pub fn promote(&mut self, id: MemberId) -> Result<(), Refused> {
        let t = self.tracked(id).ok_or(Refused::NotFound)?;
        if !t.member.learner {
            return Err(Refused::NotLearner);
        }
        if !t.in_step {
            return Err(Refused::NotInSync);
        }
        t.member.learner = false;
        Ok(())
    }

    /// MemberRemove. `alive` says whether the leader is connected to the member itself.
    pub fn remove(&mut self, id: MemberId, alive: bool, connected: Connected) -> Result<Member, Refused> {
        let n = self.voters();
        if connected.now < quorum(n) {
            return Err(Refused::TimedOut);
        }
        let at = self.members.iter().position(|t| t.member.id == id).ok_or(Refused::NotFound)?;
        if !self.members[at].member.learner {
            let started = self.members().filter(|m| !m.learner && m.name.is_some() && m.id != id).count();
            if n > 1 && started < quorum(n - 1) {
                return Err(Refused::NotEnoughStarted);
            }
            // a dead voter may always go; a live one only if the rest still has its quorum
            if alive && connected.long.saturating_sub(1) < quorum(n - 1) {
                return Err(Refused::Unhealthy);
            }
        }
        let gone = self.members.remove(at).member;
        if self.leader == Some(id) {
            self.elect(None);
        }
        Ok(gone)
    }

    /// The leader's tick of k3s: promote what is in step, evict what has made no progress for too long.
    pub fn tick_learners(&mut self, numbers: &Numbers, now: u64) -> Option<Ticked> {
        let learner = self.members.iter().find(|t| t.member.learner)?;
        let (id, progressed) = (learner.member.id, learner.progressed);
        if self.promote(id).is_ok() {
            return self.member(id).cloned().map(Ticked::Promoted);
        }
        if now.saturating_sub(progressed) > numbers.eviction {
            let at = self.members.iter().position(|t| t.member.id == id)?;
            return Some(Ticked::Evicted(self.members.remove(at).member));
        }
        None
    }

    /// cluster-reset: one member and a new cluster id over the same CA.
    pub fn reset_to(&self, name: String, peer_url: String, luck: u64, now: u64) -> Self {
        let mut new = Self::founded(self.ca, name, peer_url, now);
        new.id = ClusterId(luck);
        new.nodes = self.nodes.clone();
        new
    }

    fn tracked(&mut self, id: MemberId) -> Option<&mut Tracked> {
        self.members.iter_mut().find(|t| t.member.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const RULE: AddRule = AddRule::QuorumOfNext;

    fn url(n: u8) -> String {
        format!("https://10.77.0.1{n}:2380")
    }

    fn up(n: usize) -> Connected {
        Connected { now: n, long: n }
    }

    fn cluster(voters: u8) -> EtcdModel {
        let mut c = EtcdModel::founded(CaHash([1; 32]), String::from("mini-pc-1-00000001"), url(1), 0);
        for n in 2..=voters {
            let id = c.add_learner(&url(n), up(n as usize - 1), RULE, u64::from(n) * 1000).unwrap();
            c.publish(id, &format!("mini-pc-{n}-0000000{n}"));
            c.progress(id, 0);
            c.promote(id).unwrap();
        }
        c
    }

    #[test]
    fn a_second_learner_is_refused() {
        let mut c = cluster(1);
        c.add_learner(&url(2), up(1), RULE, 0).unwrap();
        assert_eq!(c.add_learner(&url(3), up(1), RULE, 0), Err(Refused::TooManyLearners));
    }

    #[test]
    fn etcd_3_6_wants_the_quorum_of_the_next_size() {
        assert_eq!(cluster(2).add_learner(&url(9), up(1), RULE, 0), Err(Refused::TimedOut));
        assert_eq!(cluster(3).add_learner(&url(9), up(2), RULE, 0), Err(Refused::Unhealthy));
        assert!(cluster(5).add_learner(&url(9), up(4), RULE, 0).is_ok());
        assert_eq!(cluster(5).add_learner(&url(9), up(4), AddRule::AllVoters, 0), Err(Refused::Unhealthy));
    }

    #[test]
    fn a_voter_that_just_came_back_does_not_count_yet() {
        let fresh = Connected { now: 3, long: 2 };
        assert_eq!(cluster(3).add_learner(&url(9), fresh, RULE, 0), Err(Refused::Unhealthy));
    }

    #[test]
    fn a_dead_learner_in_step_is_promoted_all_the_same() {
        let mut c = cluster(1);
        let id = c.add_learner(&url(2), up(1), RULE, 0).unwrap();
        assert_eq!(c.tick_learners(&Numbers::REAL, 0), None);
        c.progress(id, 0);
        assert!(matches!(c.tick_learners(&Numbers::REAL, 0), Some(Ticked::Promoted(_))));
    }

    #[test]
    fn a_stalled_learner_is_evicted_after_the_limit_only() {
        let mut c = cluster(1);
        c.add_learner(&url(2), up(1), RULE, 0).unwrap();
        assert_eq!(c.tick_learners(&Numbers::REAL, 300_000), None);
        assert!(matches!(c.tick_learners(&Numbers::REAL, 300_001), Some(Ticked::Evicted(_))));
    }

    #[test]
    fn a_new_leader_does_not_know_a_dead_learner_s_progress() {
        let mut c = cluster(3);
        let id = c.add_learner(&url(4), up(3), RULE, 0).unwrap();
        c.progress(id, 0);
        let other = c.members().nth(1).unwrap().id;
        c.elect(Some(other));
        assert_eq!(c.promote(id), Err(Refused::NotInSync));
    }

    #[test]
    fn a_live_voter_is_not_removed_when_the_rest_would_lose_its_quorum() {
        let mut c = cluster(3);
        let ids: Vec<_> = c.members().map(|m| m.id).collect();
        assert_eq!(c.remove(ids[1], true, up(2)), Err(Refused::Unhealthy));
        assert!(c.remove(ids[2], false, up(2)).is_ok());
        assert_eq!(c.remove(ids[2], false, up(2)), Err(Refused::NotFound));
    }
}
