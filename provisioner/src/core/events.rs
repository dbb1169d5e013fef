//! What happened, per machine, in words; bounded, so that a noisy machine cannot fill the disk.

use crate::store::rows::{EVENTS, EventRow};
use crate::store::{Read, StoreError, Tx};
use muster_protocol::keys::Fingerprint;

/// Kept per machine; older ones are dropped.
const KEPT: usize = 200;
/// The cluster's own events are kept under this name, which no machine can have.
pub const CLUSTER: &str = "-";

pub fn note(
    tx: &mut Tx,
    unix_ms: u64,
    name: &str,
    what: impl Into<String>,
    by: Option<Fingerprint>,
) -> Result<(), StoreError> {
    let mut what: String = what.into();
    if what.len() > 1000 {
        let cut = (0..=1000).rev().find(|at| what.is_char_boundary(*at)).unwrap_or(0);
        what.truncate(cut);
    }
    let rows = tx.all(EVENTS, &format!("{name}/"))?;
    let newest = rows.last().and_then(|(key, _)| key.rsplit_once('/')?.1.parse::<u64>().ok()).unwrap_or(0);
    for (key, _) in rows.iter().take((rows.len() + 1).saturating_sub(KEPT)) {
        tx.delete(EVENTS, key)?;
    }
    tracing::info!(machine = name, "{what}");
    tx.put(EVENTS, &format!("{name}/{:020}", newest + 1), &EventRow { at_unix_ms: unix_ms, what, by })
}

/// Oldest first.
pub fn of(view: &impl Read, name: &str) -> Result<Vec<EventRow>, StoreError> {
    Ok(view.all(EVENTS, &format!("{name}/"))?.into_iter().map(|(_, row)| row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn the_oldest_events_are_dropped_and_machines_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&folder.path().join("store.redb")).unwrap();
        store
            .write(|tx| {
                (0..KEPT as u64 + 20)
                    .try_for_each(|n| note(tx, n, "mini-pc-1", format!("event {n}"), None))?;
                note(tx, 5, "mini-pc-10", "other", None)
            })
            .unwrap();
        let view = store.view().unwrap();
        let kept = of(&view, "mini-pc-1").unwrap();
        assert_eq!((kept.len(), kept[0].at_unix_ms), (KEPT, 20));
        assert_eq!(of(&view, "mini-pc-10").unwrap().len(), 1);
    }
}
