//! Looks at etcd itself on every server all the time, past agent and provisioner, and keeps what must never be seen.

use crate::machine::Machine;
use muster_agent::node::probe::Prober;
use muster_agent::state::uptime_ms;
use muster_protocol::etcd::{EtcdMember, Identity, OwnMember};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at one server. A look costs a few TLS handshakes.
const PACE: Duration = Duration::from_millis(700);

#[derive(Default)]
pub(crate) struct Seen {
    /// The last answer of each server's etcd; none while it does not answer.
    pub(crate) own: BTreeMap<u8, OwnMember>,
    /// Every cluster that any server ever was in.
    pub(crate) identities: BTreeSet<String>,
    /// Lists with more than one change under way.
    pub(crate) doubled: BTreeSet<String>,
}

pub(crate) struct Watch {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start<'a>(servers: impl Iterator<Item = (u8, &'a Machine)>) -> Self {
        let mut watch = Self { seen: Arc::default(), stop: Vec::new(), threads: Vec::new() };
        for (n, server) in servers {
            let (stop, stopped) = channel();
            let (seen, root) = (watch.seen.clone(), server.root());
            watch.stop.push(stop);
            watch.threads.push(server.netns.run(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let prober = Prober::new(root).unwrap();
                look_on(n, prober, &runtime, &seen, &stopped);
            }));
        }
        watch
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until somebody looked again, or a moment passed.
    pub(crate) fn next_look(&self) {
        let (seen, looked) = &*self.seen;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let _looked = looked.wait_timeout(seen, PACE).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn look_on(
    n: u8,
    mut prober: Prober,
    runtime: &tokio::runtime::Runtime,
    seen: &(Mutex<Seen>, Condvar),
    stopped: &Receiver<()>,
) {
    loop {
        let own = runtime.block_on(prober.own(uptime_ms())).member;
        note(&mut seen.0.lock().unwrap_or_else(PoisonError::into_inner), n, own);
        seen.1.notify_all();
        match stopped.recv_timeout(PACE) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn note(seen: &mut Seen, n: u8, own: Option<OwnMember>) {
    let Some(own) = own else {
        seen.own.remove(&n);
        return;
    };
    if let Some(Identity { ca, cluster_id }) = own.identity {
        seen.identities.insert(format!("{ca} {cluster_id}"));
    }
    if let Ok(members) = &own.members
        && members.iter().filter(|member| is_changing(member)).count() > 1
    {
        seen.doubled.insert(format!("{members:?}"));
    }
    seen.own.insert(n, own);
}

/// Added, and no voter yet.
pub(crate) fn is_changing(member: &EtcdMember) -> bool {
    member.learner || member.name.is_none()
}
