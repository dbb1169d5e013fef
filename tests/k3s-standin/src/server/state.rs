//! What the tasks of one server share.

use crate::api::store::Store;
use crate::base::faults::Faults;
use crate::base::log;
use crate::base::paths::Paths;
use crate::base::settings::Settings;
use crate::etcd::gateway::Gateway;
use crate::server::bootstrap::Secrets;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc};

/// Where the datastore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    NotStarted,
    Etcd,
    /// The member was removed while it was down: etcd has ended, the process stays.
    Lingering,
    Sqlite,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Asked for by a signal.
    Stopped,
    /// `level=fatal msg="…"`.
    Fatal(String),
    /// `level=error msg="Shutdown request received: …"`.
    Shutdown(String),
    /// The last line is written already.
    Silent,
    /// cluster-reset is done: the same line as a shutdown, but no failure.
    Reset,
}

impl End {
    /// The last line, and the exit status.
    pub fn tell(&self) -> i32 {
        match self {
            Self::Stopped => 0,
            Self::Silent => 1,
            Self::Fatal(text) => {
                log::fatal(text);
                1
            }
            Self::Shutdown(text) => {
                log::error(&format!("Shutdown request received: {text:?}"));
                1
            }
            Self::Reset => {
                log::error(&format!("Shutdown request received: {:?}", k3s_model::texts::RESET_DONE));
                0
            }
        }
    }
}

pub struct K3s {
    pub settings: Settings,
    pub paths: Paths,
    pub release: String,
    pub node: String,
    pub ip: String,
    pub secrets: Secrets,
    pub member_name: RefCell<String>,
    pub gateway: Rc<Gateway>,
    pub store: Store,
    pub phase: Cell<Phase>,
    /// Voter, leader known, API open.
    pub ready: Cell<bool>,
    /// This process has seen itself in the member list.
    pub listed: Cell<bool>,
    /// The last linearizable answer.
    pub quorum_seen: Cell<Instant>,
    pub faults: Faults,
    /// Something was marked for deletion.
    pub nudge: Notify,
    pub ends: mpsc::UnboundedSender<End>,
}

impl K3s {
    pub fn end(&self, end: End) {
        let _ = self.ends.send(end);
    }
}
