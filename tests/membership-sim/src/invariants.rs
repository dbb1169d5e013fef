//! What must never be seen, whatever befalls: looked at after every step of every history.

use crate::node::Node;
use crate::provisioner::Store;
use k3s_model::config::url_host;
use k3s_model::world::{Event, World};
use muster_protocol::ids::Number;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A second cluster was made.
    TwoClusters { clusters: usize },
    /// Two servers are in their join loops, or one is while another's change was let begin.
    TwoChanges { joining: Vec<String> },
    /// A lock was released while its holder was listed and not yet a voter.
    ReleasedEarly { holder: String },
    /// A lock was given a number that is not higher than every one that a node has accepted.
    NumberFell { had: Number, got: Number },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoClusters { clusters } => write!(f, "{clusters} clusters were made"),
            Self::TwoChanges { joining } => write!(f, "changes at once: {}", joining.join(", ")),
            Self::ReleasedEarly { holder } => {
                write!(f, "the lock was released while {holder} was listed and no voter")
            }
            Self::NumberFell { had, got } => write!(f, "a lock got number {got} after {had}"),
        }
    }
}

/// Remembers what a single look cannot show.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    founded: usize,
    highest: Number,
}

impl Watch {
    pub fn events(&mut self, events: &[Event]) -> Result<(), Violation> {
        self.founded += events.iter().filter(|event| matches!(event, Event::Founded { .. })).count();
        if self.founded > 1 {
            return Err(Violation::TwoClusters { clusters: self.founded });
        }
        Ok(())
    }

    /// Compares the stores around one turn of the provisioner.
    pub fn turn(
        &mut self,
        before: &Store,
        after: &Store,
        world: &World,
        nodes: &[Node],
    ) -> Result<(), Violation> {
        let fence = after.record.lock.as_ref().map(|lock| lock.fence);
        let released = before.record.lock.as_ref().filter(|lock| Some(lock.fence) != fence);
        if let Some(lock) = released
            && let Some(node) = nodes.iter().find(|node| node.server.name == lock.holder)
            && is_changing(world, nodes, node)
        {
            return Err(Violation::ReleasedEarly { holder: lock.holder.to_string() });
        }
        let new = after.record.lock.as_ref().filter(|lock| before.record.lock.as_ref() != Some(*lock));
        let Some(lock) = new else { return Ok(()) };
        let same = before
            .record
            .lock
            .as_ref()
            .is_some_and(|old| old.fence == lock.fence && old.holder == lock.holder);
        if same {
            return Ok(());
        }
        if lock.fence <= self.highest {
            return Err(Violation::NumberFell { had: self.highest, got: lock.fence });
        }
        Ok(())
    }

    /// A node took this grant: from now on no lock may have its number. What never left the store may be forgotten.
    pub fn accepted(&mut self, fence: Number) {
        self.highest = self.highest.max(fence);
    }

    pub fn look(&self, world: &World, nodes: &[Node]) -> Result<(), Violation> {
        let joining: Vec<String> = nodes
            .iter()
            .filter(|node| world.waiting_text(node.machine).is_some() || is_learner(world, node))
            .map(|node| node.server.name.to_string())
            .collect();
        if joining.len() > 1 {
            return Err(Violation::TwoChanges { joining });
        }
        Ok(())
    }
}

/// Added, and no voter yet, in the list that a server with a quorum gives now.
fn is_changing(world: &World, nodes: &[Node], node: &Node) -> bool {
    let address = node.server.address.to_string();
    nodes.iter().any(|by| {
        world.member_list_as_seen_by(by.machine).is_ok_and(|list| {
            let mut listed = list.iter().filter(|member| url_host(&member.peer_url) == address);
            listed.any(|member| member.learner || member.name.is_none())
        })
    })
}

fn is_learner(world: &World, node: &Node) -> bool {
    world.health(node.machine).is_some_and(|health| health.is_learner)
}
