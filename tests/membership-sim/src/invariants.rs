//! What must never be seen, whatever befalls: looked at after every step of every history.

use crate::node::Node;
use crate::provisioner::Store;
use k3s_model::world::{Event, World};
use muster_protocol::ids::Number;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A second cluster was made.
    TwoClusters { clusters: usize },
    /// Two servers are in their join loops, or one is while another's change was let begin.
    TwoChanges { joining: Vec<String> },
    /// A lock was given a number that is not higher than every one that a node has accepted.
    NumberFell { had: Number, got: Number },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoClusters { clusters } => write!(f, "{clusters} clusters were made"),
            Self::TwoChanges { joining } => write!(f, "changes at once: {}", joining.join(", ")),
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
    pub fn turn(&mut self, before: &Store, after: &Store) -> Result<(), Violation> {
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

fn is_learner(world: &World, node: &Node) -> bool {
    world.health(node.machine).is_some_and(|health| health.is_learner)
}
