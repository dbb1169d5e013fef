//! Everything that must lie on the disk before k3s first starts: Kata, then k3s. Blocking; runs on a thread of its own.

use crate::install::fetch::{Http, Source};
use crate::node::fetch::Fetcher;
use crate::node::kata::{self, KataError};
use crate::node::place::{self, PlaceError};
use crate::node::timeline::begins;
use crate::state::{Root, uptime_ms};
use muster_protocol::manifest::Manifest;
use muster_protocol::status::Progress;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("Kata cannot be put in place")]
    Kata(#[from] KataError),
    #[error("k3s cannot be put in place")]
    K3s(#[from] PlaceError),
}

impl PrepareError {
    /// The step that it hinders.
    pub(super) fn step(&self) -> &'static str {
        match self {
            Self::Kata(_) => "kata",
            Self::K3s(_) => "k3s",
        }
    }
}

/// Start and end of what was done, in milliseconds since kernel start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub started_ms: u64,
    pub ended_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// `None` where Kata is not for this role.
    pub kata: Option<Span>,
    pub k3s: Span,
    /// What is in place but not in use, because this node runs another version: an upgrade's business.
    pub waiting: Vec<String>,
}

/// How far the present file is, read by the service while the thread works; and when each step first began and ended,
/// which tries that failed and later manifests do not change.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Measured>>);

#[derive(Debug, Default)]
struct Measured {
    present: Option<Progress>,
    /// Start and, once it was done, end.
    steps: BTreeMap<&'static str, (u64, Option<u64>)>,
}

impl Meter {
    pub fn read(&self) -> Option<Progress> {
        self.with(|measured| measured.present.clone())
    }

    fn set(&self, progress: Option<Progress>) {
        self.with(|measured| measured.present = progress);
    }

    fn of<'a>(&'a self, step: &'a str) -> impl FnMut(u64, u64) + 'a {
        move |done, total| self.set(Some(Progress { step: step.into(), done, total }))
    }

    /// Whether this is the step's first try.
    fn begins(&self, step: &'static str, now_ms: u64) -> bool {
        self.with(|measured| {
            let first = !measured.steps.contains_key(step);
            measured.steps.entry(step).or_insert((now_ms, None));
            first
        })
    }

    fn ended(&self, step: &'static str, now_ms: u64) -> Span {
        self.with(|measured| {
            let (started_ms, end) = measured.steps.entry(step).or_insert((now_ms, None));
            Span { started_ms: *started_ms, ended_ms: *end.get_or_insert(now_ms) }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Measured) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `may_replace`: k3s never ran here, so versions may still be exchanged.
pub fn prepare(
    root: &Root,
    manifest: &Manifest,
    artifacts: Option<SocketAddr>,
    may_replace: bool,
    meter: &Meter,
) -> Result<Prepared, PrepareError> {
    let mut http = artifacts.map(Http::new);
    let done = steps(root, manifest, http.as_mut().map(|http| http as &mut dyn Source), may_replace, meter);
    meter.set(None);
    done
}

fn steps(
    root: &Root,
    manifest: &Manifest,
    mut source: Option<&mut dyn Source>,
    may_replace: bool,
    meter: &Meter,
) -> Result<Prepared, PrepareError> {
    let mut waiting = Vec::new();
    let mut spans = None;
    if let Some(wanted) = &manifest.kata {
        if meter.begins("kata", uptime_ms()) {
            begins(root, "kata");
        }
        let mut progress = meter.of("kata");
        let mut fetcher = source.as_deref_mut().map(|source| Fetcher { source, progress: &mut progress });
        let placed = kata::put_in_place(root, wanted, &manifest.k3s.version, fetcher.as_mut(), may_replace)?;
        if !placed.current {
            waiting.push(format!("Kata {} is here, but this node runs another one", wanted.version));
        }
        spans = Some(meter.ended("kata", uptime_ms()));
    }
    if meter.begins("k3s", uptime_ms()) {
        begins(root, "k3s");
    }
    let mut progress = meter.of("k3s");
    let mut fetcher = source.map(|source| Fetcher { source, progress: &mut progress });
    let placed = place::place(root, &manifest.k3s, fetcher.as_mut(), may_replace)?;
    if !placed.current {
        waiting.push(format!("k3s {} is here, but this node runs another one", manifest.k3s.version));
    }
    Ok(Prepared { kata: spans, k3s: meter.ended("k3s", uptime_ms()), waiting })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fetch::tests::Shelf;
    use crate::node::kata::testing::{tar, zst};
    use crate::node::testing::{Cluster, scratch};
    use muster_protocol::ids::Digest;

    fn manifest() -> (Manifest, Shelf) {
        let mut manifest = Cluster::new().manifest(4);
        let archive = zst(&tar(&[("opt/kata/VERSION", '0', "4.1.0")]));
        let kata = manifest.kata.as_mut().unwrap();
        (kata.archive, kata.archive_bytes) = (Digest::of(&archive), archive.len() as u64);
        (manifest, Shelf::new(vec![archive, b"k3s binary".to_vec()]))
    }

    #[test]
    fn kata_comes_before_k3s() {
        let root = scratch();
        let (manifest, mut shelf) = manifest();
        let done = steps(&root, &manifest, Some(&mut shelf), true, &Meter::default()).unwrap();
        assert!(done.kata.unwrap().ended_ms <= done.k3s.started_ms);
        assert!(done.waiting.is_empty());
        steps(&root, &manifest, None, false, &Meter::default()).unwrap();
    }

    #[test]
    fn without_kata_there_is_no_k3s() {
        let root = scratch();
        let (manifest, mut shelf) = manifest();
        shelf.files.remove(0);
        let failed = steps(&root, &manifest, Some(&mut shelf), true, &Meter::default());
        assert!(matches!(failed, Err(PrepareError::Kata(_))));
        assert!(!root.exists("/var/lib/muster/k3s/current"));
    }

    #[test]
    fn a_step_begins_with_its_first_try_and_ends_once() {
        let meter = Meter::default();
        assert!(meter.begins("kata", 10) && !meter.begins("kata", 20));
        assert_eq!(meter.ended("kata", 30), Span { started_ms: 10, ended_ms: 30 });
        assert!(!meter.begins("kata", 40), "looked at again, because k3s failed");
        assert_eq!(meter.ended("kata", 50), Span { started_ms: 10, ended_ms: 30 });
        assert!(meter.begins("k3s", 35));
    }

    #[test]
    fn a_role_without_kata_gets_none() {
        let root = scratch();
        let (mut manifest, mut shelf) = manifest();
        manifest.kata = None;
        let done = steps(&root, &manifest, Some(&mut shelf), true, &Meter::default()).unwrap();
        assert_eq!(done.kata, None);
        assert!(!root.exists("/var/lib/muster/kata") && !kata::is_there(&root));
    }
}
