//! One thread that drives tokio, so that links come up, leases are renewed and connections live while PID 1 itself is
//! busy with disks.

use anyhow::Context;
use std::future::Future;
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The running thread; dropping it stops it and every task in it.
pub(super) struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn(move || {
                // An error is the sender's end too.
                let _stopped = runtime.block_on(stopped);
            })
            .context("starting a thread")?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `work` on this thread, with its sockets and timers served by the other.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended already where nobody listens.
            let _ended = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network's thread had died");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tasks_go_on_while_nobody_waits_for_them() {
        let background = Background::start().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        background.run(async {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                tell.send(7).unwrap();
            });
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(7));
    }
}
