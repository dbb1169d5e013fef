//! The core, and the time, as edges use them: one at a time, away from the reactor, because it waits for the disk.

use crate::config::meant::Clock;
use crate::core::{Core, CoreError, Now};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clone is the same core.
#[derive(Clone)]
pub struct Shared {
    core: Arc<Mutex<Core>>,
    started: Instant,
    clock: Clock,
    earliest: u64,
}

impl Shared {
    pub fn new(core: Core) -> Result<Self, CoreError> {
        let clock = core.config().provisioner.clock;
        let earliest = core.earliest()?;
        Ok(Self { core: Arc::new(Mutex::new(core)), started: Instant::now(), clock, earliest })
    }

    pub fn now(&self) -> Now {
        let since = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, since);
        let vouched = match self.clock {
            Clock::Local => true,
            Clock::Ntp => muster_identity::clock::is_synchronised(),
        };
        Now {
            mono_ms: since(self.started.elapsed()),
            unix_ms,
            clock: vouched && unix_ms / 1000 >= self.earliest,
        }
    }

    /// Runs `act` on the core. A panic in there is ours, not the asker's, and ends with this error.
    pub async fn ask<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Core, Now) -> R + Send + 'static,
    ) -> Result<R, tokio::task::JoinError> {
        let (core, now) = (self.core.clone(), self.now());
        tokio::task::spawn_blocking(move || {
            let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
            act(&mut core, now)
        })
        .await
    }

    /// The same without a runtime, before and after serving.
    pub fn ask_now<R>(&self, act: impl FnOnce(&mut Core, Now) -> R) -> R {
        let now = self.now();
        act(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}
