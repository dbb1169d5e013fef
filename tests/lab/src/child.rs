//! A program that the lab started: in its own process group (a Ctrl-C at the terminal is ours alone), ended by its own id.

use crate::{locked, stop};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Ended (politely, then not) when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    end: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    grace: Duration,
}

impl Child {
    /// Starts it with no input and both outputs appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = appended(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Self::spawn(name, command).map(|(child, _)| child)
    }

    /// Starts it with its output as a pipe and its complaints appended to `log`.
    pub fn start_piped(name: &str, mut command: Command, log: &Path) -> Result<(Self, ChildStdout)> {
        command.stdout(Stdio::piped()).stderr(appended(log)?);
        let (child, output) = Self::spawn(name, command)?;
        Ok((child, output.context("no output pipe")?))
    }

    fn spawn(name: &str, mut command: Command) -> Result<(Self, Option<ChildStdout>)> {
        command.stdin(Stdio::null()).process_group(0);
        let mut inner = command
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        let output = inner.stdout.take();
        let pid = Pid::from_raw(inner.id() as i32);
        let end = Arc::new((Mutex::new(None), Condvar::new()));
        std::thread::Builder::new().name(format!("wait-{name}")).spawn({
            let end = end.clone();
            move || {
                // first wait without reaping: under the lock nobody signals an id that is somebody else's by now
                let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
                let mut status = locked(&end.0);
                *status = inner.wait().ok().or_else(|| Some(ExitStatus::default()));
                end.1.notify_all();
            }
        })?;
        Ok((Self { name: name.into(), pid, end, grace: Duration::from_secs(10) }, output))
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        *locked(&self.end.0)
    }

    /// Waits for its end, at most `limit`; also returns early when the lab is stopped.
    pub fn wait(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.wait_a_little(Duration::from_millis(100).min(limit)) {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            stop::pause(Duration::ZERO)?;
        }
    }

    /// Sends a signal unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let status = locked(&self.end.0);
        if status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// SIGTERM, and SIGKILL to its whole group when it does not leave in time.
    pub fn stop(&self) -> Option<ExitStatus> {
        self.stop_within(self.grace)
    }

    pub fn stop_within(&self, grace: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        if let Some(status) = self.wait_a_little(grace) {
            return Some(status);
        }
        eprintln!("lab: {} (process {}) did not end in {grace:?}, killed", self.name, self.pid);
        self.kill()
    }

    /// SIGKILL to the group, at once.
    pub fn kill(&self) -> Option<ExitStatus> {
        {
            let status = locked(&self.end.0);
            if status.is_none() {
                let _ = kill(Pid::from_raw(-self.pid.as_raw()), Signal::SIGKILL);
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        self.wait_a_little(Duration::from_secs(10))
    }

    /// Not interrupted by a stop: teardown uses it.
    fn wait_a_little(&self, limit: Duration) -> Option<ExitStatus> {
        let status = locked(&self.end.0);
        let (status, _) = self
            .end
            .1
            .wait_timeout_while(status, limit, |status| status.is_none())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop();
        }
    }
}

/// Runs a short program to its end; its complaints are the error.
pub fn run(mut command: Command) -> Result<String> {
    let what = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{what}`"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{what}`: {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn appended(log: &Path) -> Result<File> {
    File::options().append(true).create(true).open(log).with_context(|| format!("log {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_end_of_a_program_is_seen() {
        let child = Child::start("true", sh("exit 3"), Path::new("/dev/null")).unwrap();
        assert_eq!(child.wait(Duration::from_secs(10)).unwrap().and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn a_program_deaf_to_sigterm_is_killed() {
        let (child, mut output) =
            Child::start_piped("deaf", sh("trap '' TERM; echo up; exec sleep 1000"), Path::new("/dev/null"))
                .unwrap();
        std::io::Read::read_exact(&mut output, &mut [0; 3]).unwrap();
        assert!(child.stop_within(Duration::from_millis(50)).is_some());
    }

    #[test]
    fn a_failing_program_says_why() {
        let error = run(sh("echo no such bridge >&2; exit 1")).unwrap_err().to_string();
        assert!(error.contains("no such bridge"), "{error}");
    }
}
