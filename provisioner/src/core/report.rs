//! Progress: what a machine says of itself is shown, and its stages are kept.

use super::live::Live;
use super::ordering::close;
use super::{Asker, Core, CoreError, Now, events, machine_row, macs_of, name_of, timeline};
use crate::store::rows::TIMELINES;
use crate::store::{Read, StoreError};
use muster_protocol::ids::NodeName;
use muster_protocol::status::Status;
use muster_protocol::sync::{Noted, Report};

impl Core {
    /// Progress from the boot image. Of a key that is not admitted it is only shown.
    pub fn report(&mut self, now: Now, asker: &Asker, report: &Report) -> Result<Noted, CoreError> {
        let admitted = name_of(&self.store.view()?, &asker.key)?;
        if let Some(name) = admitted.clone().or_else(|| self.named.get(&asker.print()).cloned()) {
            self.note_status(now, asker, &name, &report.status)?;
        }
        if let Some(name) = admitted {
            let cluster = self.trust.cluster;
            self.store.write(|tx| -> Result<(), StoreError> {
                if let Some(number) = report.installed {
                    close(tx, now, cluster, &name, asker.print(), number)?;
                }
                for line in report.log.iter().rev().take(20).rev() {
                    events::note(tx, now.unix_ms, name.as_str(), format!("log: {line}"), None)?;
                }
                Ok(())
            })?;
        }
        Ok(Noted { next_ms: next_ms(&report.status) })
    }

    /// Keeps the status in memory and its stages in the store.
    pub(super) fn note_status(
        &mut self,
        now: Now,
        asker: &Asker,
        name: &NodeName,
        status: &Status,
    ) -> Result<(), CoreError> {
        let Some(live) = self.shown(name, asker)? else { return Ok(()) };
        if !live.note_status(asker, now, status) {
            return Ok(());
        }
        let (kernel, hello) = (live.kernel_unix_ms, live.hello.clone());
        let boot = status.boot.to_string();
        let row = machine_row(&self.store.view()?, name)?;
        let macs = macs_of(&self.config, &row, name);
        let trace = self.traces.of(&macs).cloned();
        self.store.write(|tx| {
            let mut rows = tx.get(TIMELINES, name.as_str())?.unwrap_or_default();
            let mut changed = timeline::add(&mut rows, &boot, kernel, &status.stages);
            if status.image.is_none() {
                let first = status.stages.iter().map(|stage| stage.started_ms).min();
                changed |=
                    timeline::add_netboot(&mut rows, &boot, kernel, trace.as_ref(), hello.as_ref(), first);
            }
            if changed { tx.put(TIMELINES, name.as_str(), &rows) } else { Ok(()) }
        })?;
        Ok(())
    }

    /// The machine's place in the picture, if this key may be shown in it: an admitted key is not pushed out of its
    /// place by another one that claims the same name.
    pub(super) fn shown(&mut self, name: &NodeName, asker: &Asker) -> Result<Option<&mut Live>, CoreError> {
        let admitted = machine_row(&self.store.view()?, name)?.admitted;
        if admitted.is_some_and(|admitted| admitted.key != asker.key) || self.config.machine(name).is_none() {
            return Ok(None);
        }
        let now = Now { mono_ms: 0, unix_ms: 0, clock: false };
        Ok(Some(self.live.entry(name.clone()).or_insert_with(|| Live::new(asker, now))))
    }
}

pub(super) fn next_ms(status: &Status) -> u32 {
    if status.step.is_some() { 1_000 } else { 5_000 }
}
