//! Old datastores, moved out of k3s's sight: which name the next gets, and which have lain there long enough.

use super::record::DB;
use crate::state::{Root, StateError};
use muster_protocol::ids::Number;
use std::fs;

/// So many stay, the newest. Two joins can fail in a row (an evicted learner leaves a datastore that was never a member's)
/// before the one that was worth something goes; each can have etcd's whole quota of 2 GiB, beside volumes and images.
pub(super) const KEPT: usize = 3;

/// Moves the whole datastore out of k3s's sight, under a name that sorts behind all others. What is older than the newest
/// [`KEPT`] is deleted; where that fails it is told and tried again at the next move: no reason against a join.
pub(super) fn move_aside(root: &Root, fence: Number) -> Result<(), StateError> {
    let db = root.path(DB);
    let known = asides(root);
    let again = known.iter().filter(|aside| aside.fence == fence).map(|aside| aside.again + 1).max();
    let name = Aside { fence, again: again.unwrap_or(1) }.name();
    let path = db.with_file_name(&name);
    let moved = fs::rename(&db, &path).and_then(|()| crate::durable::sync_parent(&db));
    moved.map_err(|source| StateError::Write { path, source })?;
    // Looked at anew: only what is really there counts, the one just moved first of all.
    for old in surplus(asides(root)) {
        let path = db.with_file_name(old.name());
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "an old datastore stays, nothing needs it");
        }
    }
    Ok(())
}

/// `db-before-<fence>`, and `-2`, `-3` … behind it where one grant moved several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    fence: Number,
    again: u32,
}

const PREFIX: &str = "db-before-";

impl Aside {
    fn name(self) -> String {
        match self.again {
            1 => format!("{PREFIX}{}", self.fence),
            again => format!("{PREFIX}{}-{again}", self.fence),
        }
    }

    /// Only what [`Self::name`] writes; anything else is a person's.
    fn parse(name: &str) -> Option<Self> {
        let (fence, again) = match name.strip_prefix(PREFIX)?.split_once('-') {
            Some((fence, again)) => (fence, again.parse().ok()?),
            None => (name.strip_prefix(PREFIX)?, 1),
        };
        let mut parts = fence.split('.');
        let fence = Number {
            delegation: parts.next()?.parse().ok()?,
            generation: parts.next()?.parse().ok()?,
            n: parts.next()?.parse().ok()?,
        };
        Some(Self { fence, again }).filter(|aside| aside.name() == name)
    }
}

/// The oldest beyond [`KEPT`]. By number and not by date: a machine's clock may have been wrong.
fn surplus(mut asides: Vec<Aside>) -> Vec<Aside> {
    asides.sort();
    asides.truncate(asides.len().saturating_sub(KEPT));
    asides
}

fn asides(root: &Root) -> Vec<Aside> {
    let Some(Ok(entries)) = root.path(DB).parent().map(fs::read_dir) else { return Vec::new() };
    let named = |entry: fs::DirEntry| {
        // A link is nothing we made.
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        Aside::parse(entry.file_name().to_str()?).filter(|_| folder)
    };
    entries.flatten().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::look;
    use super::*;
    use crate::node::testing::{Cluster, Scratch, scratch};

    fn fill(root: &Scratch, mark: &str) {
        fs::create_dir_all(root.path(DB).join("etcd/member/wal")).unwrap();
        fs::write(root.path(DB).join("mark"), mark).unwrap();
    }

    fn marks(root: &Scratch) -> Vec<String> {
        let mut asides = asides(root);
        asides.sort();
        let mark = |aside: Aside| root.path(DB).with_file_name(aside.name()).join("mark");
        asides.into_iter().map(|aside| fs::read_to_string(mark(aside)).unwrap()).collect()
    }

    #[test]
    fn data_is_moved_whole_and_never_over_an_earlier_one() {
        let root = scratch();
        for round in ["a", "b", "c"] {
            fill(&root, round);
            move_aside(&root, Cluster::number(7)).unwrap();
            assert!(look(&root).data.is_empty());
        }
        assert_eq!(marks(&root), ["a", "b", "c"]);
    }

    #[test]
    fn the_newest_stay_and_the_only_one_always_does() {
        let root = scratch();
        // Past ten, so that numbers and not letters must be compared; twice under one grant.
        for (fence, mark) in [(8, "a"), (9, "b"), (10, "c"), (10, "d"), (10, "e"), (11, "f")] {
            fill(&root, mark);
            move_aside(&root, Cluster::number(fence)).unwrap();
            assert_eq!(marks(&root).last().map(String::as_str), Some(mark));
        }
        assert_eq!(marks(&root), ["d", "e", "f"]);
        assert_eq!(surplus(vec![Aside { fence: Cluster::number(1), again: 1 }]), []);
        // The freed name of the first is not taken again: it would sort before what is older.
        fill(&root, "g");
        move_aside(&root, Cluster::number(10)).unwrap();
        assert_eq!(marks(&root), ["e", "g", "f"]);
    }

    #[test]
    fn what_somebody_else_put_there_is_left_alone() {
        let root = scratch();
        let server = root.path(DB).parent().unwrap().to_path_buf();
        let foreign = [
            "db-before-christmas",
            "db-before-1.0",
            "db-before-01.0.1",
            "db-before-1.0.1-1",
            "etcd-backup-1",
        ];
        for name in foreign {
            fs::create_dir_all(server.join(name)).unwrap();
        }
        for fence in 1..=5 {
            fill(&root, "x");
            move_aside(&root, Cluster::number(fence)).unwrap();
        }
        assert!(foreign.iter().all(|name| server.join(name).is_dir()));
        assert_eq!(marks(&root).len(), KEPT);
    }
}
