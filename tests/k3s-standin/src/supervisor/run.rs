//! The loop: start, watch, restart as the unit says, and do what the socket or a signal asks.

use crate::supervisor::Options;
use crate::supervisor::command::Command;
use crate::supervisor::control::{self, Asked, Verb};
use crate::supervisor::output::Output;
use crate::supervisor::unit::{self, KillMode, Kind, Restart, Unit};
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// ActiveState and SubState in systemd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Inactive,
    StartPre,
    Start,
    Running,
    AutoRestart,
    Failed,
}

impl State {
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Inactive => ("inactive", "dead"),
            Self::StartPre => ("activating", "start-pre"),
            Self::Start => ("activating", "start"),
            Self::Running => ("active", "running"),
            Self::AutoRestart => ("activating", "auto-restart"),
            Self::Failed => ("failed", "failed"),
        }
    }
}

/// What the socket shows.
#[derive(Clone, Debug)]
pub struct Shown {
    pub state: State,
    pub main_pid: u32,
    pub restarts: u32,
    pub masked: bool,
    pub result: &'static str,
}

pub fn main(options: &Options) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("lab-supervisor: {e}");
            return 1;
        }
    };
    match tokio::task::LocalSet::new().block_on(&runtime, supervise(options)) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("lab-supervisor: {e:#}");
            1
        }
    }
}

struct Supervisor {
    unit: Unit,
    root: Option<PathBuf>,
    env: BTreeMap<String, String>,
    notify: UnixDatagram,
    output: Output,
    asked: mpsc::UnboundedReceiver<Asked>,
    shown: Shown,
    main: Option<Child>,
    /// What happens next by itself.
    due: Option<Instant>,
    leave: bool,
}

async fn supervise(options: &Options) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.unit)
        .with_context(|| format!("reading {}", options.unit.display()))?;
    let name = options.unit.file_name().and_then(|n| n.to_str()).unwrap_or("unit.service");
    let unit = unit::parse(&text, name).with_context(|| format!("{}", options.unit.display()))?;
    let output = Output::open(options.log.as_deref()).context("opening the log")?;
    // Not named by the process id: a supervisor that was killed leaves its folder, and ids come again.
    let dir = tempfile::Builder::new().prefix("lab-supervisor-").tempdir();
    let dir = dir.context("making a place for the notify socket")?;
    let notify_path = dir.path().join("notify");
    let notify = UnixDatagram::bind(&notify_path).context("binding the notify socket")?;
    let (tell, asked) = mpsc::unbounded_channel();
    if let Some(socket) = &options.control {
        control::listen(socket, tell.clone()).with_context(|| format!("binding {}", socket.display()))?;
    }
    let mut env: BTreeMap<String, String> = options.env.iter().cloned().collect();
    if unit.kind == Kind::Notify {
        env.insert("NOTIFY_SOCKET".to_owned(), notify_path.display().to_string());
    }
    let shown = Shown { state: State::Inactive, main_pid: 0, restarts: 0, masked: false, result: "success" };
    let due = (!options.inactive).then(Instant::now);
    let root = options.root.clone();
    let mut supervisor =
        Supervisor { unit, root, env, notify, output, asked, shown, main: None, due, leave: false };
    let result = supervisor.run().await;
    if let Some(socket) = &options.control {
        let _ = std::fs::remove_file(socket);
    }
    result
}

/// One thing that happened.
enum Happened {
    Exit(std::io::Result<ExitStatus>),
    Ready,
    Asked(Asked),
    Due,
    Kill,
    Leave,
}

impl Supervisor {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut usr1 = signal(SignalKind::user_defined1())?;
        while !self.leave {
            let mut datagram = [0u8; 4096];
            let due = self.due;
            let running = self.main.is_some();
            let main = &mut self.main;
            let happened = tokio::select! {
                status = exit_of(main), if running => Happened::Exit(status),
                got = self.notify.recv(&mut datagram) => match got {
                    Ok(n) if String::from_utf8_lossy(&datagram[..n]).lines().any(|l| l == "READY=1") => Happened::Ready,
                    Ok(_) | Err(_) => continue,
                },
                Some(asked) = self.asked.recv() => Happened::Asked(asked),
                () = until(due), if due.is_some() => Happened::Due,
                _ = usr1.recv() => Happened::Kill,
                _ = term.recv() => Happened::Leave,
                _ = int.recv() => Happened::Leave,
            };
            self.happened(happened).await;
        }
        Ok(())
    }

    async fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Exit(status) => {
                self.main = None;
                let clean = status.as_ref().is_ok_and(ExitStatus::success);
                let text = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                self.say(&format!("main process ended: {text}"));
                self.ended(clean);
            }
            Happened::Ready => {
                if self.shown.state == State::Start {
                    self.shown.state = State::Running;
                    self.due = None;
                    self.say("ready");
                }
            }
            Happened::Asked(asked) => self.obey(asked).await,
            Happened::Due => match self.shown.state {
                State::Start => {
                    self.say("start timed out");
                    self.signal(Signal::SIGKILL);
                    self.due = None;
                }
                State::Inactive | State::StartPre | State::Running | State::AutoRestart | State::Failed => {
                    self.start().await;
                }
            },
            Happened::Kill => self.signal(Signal::SIGKILL),
            Happened::Leave => {
                self.stop().await;
                self.leave = true;
            }
        }
    }

    async fn obey(&mut self, asked: Asked) {
        let refused = match asked.verb {
            Verb::Start | Verb::Restart if self.shown.masked => Some("unit is masked"),
            Verb::Start => {
                if self.main.is_none() {
                    self.due = Some(Instant::now());
                }
                None
            }
            Verb::Restart => {
                self.stop().await;
                self.due = Some(Instant::now());
                None
            }
            Verb::Stop => {
                self.stop().await;
                None
            }
            Verb::Kill => {
                self.signal(Signal::SIGKILL);
                None
            }
            Verb::Mask => {
                self.shown.masked = true;
                None
            }
            Verb::Unmask => {
                self.shown.masked = false;
                None
            }
            Verb::Status => None,
        };
        let _ = asked.reply.send((self.shown.clone(), refused));
    }

    /// ExecStartPre in order, then ExecStart. A failing ExecStartPre without `-` is a failure like any other: Restart= counts.
    async fn start(&mut self) {
        self.due = None;
        if self.shown.masked {
            return;
        }
        self.shown.state = State::StartPre;
        match self.try_start().await {
            Ok(child) => {
                self.shown.main_pid = child.id().unwrap_or(0);
                self.main = Some(child);
                self.shown.state = State::Running;
                if self.unit.kind == Kind::Notify {
                    self.shown.state = State::Start;
                    self.due = self.unit.start_limit.map(|limit| Instant::now() + limit);
                }
                self.say(&format!("started, main process {}", self.shown.main_pid));
            }
            Err(e) => {
                self.say(&format!("start failed: {e:#}"));
                self.ended(false);
            }
        }
    }

    async fn try_start(&mut self) -> anyhow::Result<Child> {
        let env = self.environment()?;
        for command in self.unit.pre.clone() {
            let mut child = match self.spawn(&command, &env) {
                Ok(child) => child,
                Err(_) if command.may_fail => continue,
                Err(e) => return Err(e),
            };
            let status = child.wait().await.context("ExecStartPre")?;
            if !status.success() && !command.may_fail {
                bail!("ExecStartPre {}: {status}", command.words.join(" "));
            }
        }
        self.spawn(&self.unit.start, &env)
    }

    fn environment(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut env: BTreeMap<String, String> = self.unit.env.iter().cloned().collect();
        for (file, may_be_missing) in &self.unit.env_files {
            match std::fs::read_to_string(rooted(self.root.as_deref(), file)) {
                Ok(text) => env.extend(unit::env_file(&text)),
                Err(_) if *may_be_missing => {}
                Err(e) => return Err(e).with_context(|| format!("EnvironmentFile {file}")),
            }
        }
        env.extend(self.env.clone());
        Ok(env)
    }

    fn spawn(&self, command: &Command, env: &BTreeMap<String, String>) -> anyhow::Result<Child> {
        let words = command.expanded(env);
        let (program, args) = words.split_first().context("empty command")?;
        let program = rooted(self.root.as_deref(), program);
        // through ourselves, so that the service does not outlive a supervisor that was killed
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("die-with")
            .arg(std::process::id().to_string())
            .arg(&program)
            .args(args)
            .envs(env)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stem = program.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let who = format!("{stem}[{}]", child.id().unwrap_or(0));
        if let Some(pipe) = child.stdout.take() {
            self.output.follow(who.clone(), pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            self.output.follow(who, pipe);
        }
        Ok(child)
    }

    /// SIGTERM, then SIGKILL after the limit; the service stays down.
    async fn stop(&mut self) {
        self.due = None;
        self.signal(Signal::SIGTERM);
        let mut clean = true;
        if let Some(mut main) = self.main.take() {
            match timeout(self.unit.stop_limit, main.wait()).await {
                Ok(status) => clean = status.is_ok_and(|s| s.success() || s.code().is_none()),
                Err(_) => {
                    self.say("stop timed out, killing");
                    let _ = main.kill().await;
                }
            }
        }
        self.shown.main_pid = 0;
        self.shown.state = State::Inactive;
        self.shown.result = if clean { "success" } else { "exit-code" };
        self.say("stopped");
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = self.main.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        let pid = Pid::from_raw(pid);
        let _ = match self.unit.kill_mode {
            KillMode::Process => kill(pid, signal),
            KillMode::ControlGroup => killpg(pid, signal),
        };
    }

    fn ended(&mut self, clean: bool) {
        self.shown.main_pid = 0;
        self.shown.result = if clean { "success" } else { "exit-code" };
        match after_end(self.unit.restart, clean) {
            Next::Restart => {
                self.shown.state = State::AutoRestart;
                self.shown.restarts += 1;
                self.due = Some(Instant::now() + self.unit.restart_after);
                self.say(&format!("restart in {:?}", self.unit.restart_after));
            }
            Next::Stay => {
                self.due = None;
                self.shown.state = if clean { State::Inactive } else { State::Failed };
            }
        }
    }

    fn say(&self, text: &str) {
        self.output.line(&self.unit.name, text);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Restart,
    Stay,
}

fn after_end(restart: Restart, clean: bool) -> Next {
    match (restart, clean) {
        (Restart::Always, _) | (Restart::OnFailure, false) => Next::Restart,
        (Restart::No, _) | (Restart::OnFailure, true) => Next::Stay,
    }
}

async fn exit_of(main: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match main {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))).await;
}

/// A file under the root if it is there, else where the unit says.
fn rooted(root: Option<&Path>, path: &str) -> PathBuf {
    let under = root.map(|root| root.join(path.trim_start_matches('/')));
    under.filter(|p| p.exists()).unwrap_or_else(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_always_restarts_after_a_clean_end_too() {
        assert_eq!(after_end(Restart::Always, true), Next::Restart);
        assert_eq!(after_end(Restart::OnFailure, true), Next::Stay);
        assert_eq!(after_end(Restart::OnFailure, false), Next::Restart);
        assert_eq!(after_end(Restart::No, false), Next::Stay);
    }
}
