//! Starting and watching k3s's unit: through systemd, or in the lab through the supervisor that runs the same unit file.

use crate::state::Root;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

/// Where the lab's supervisor listens, one socket per unit: `k3s.service.sock`. See docs/stand-in.md.
const SUPERVISOR: &str = "/run/muster/units";
/// k3s blocks `systemctl start` until it is a voter, so nothing here waits for it.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error("cannot run `{program}`")]
    Run { program: String, source: io::Error },
    #[error("`{program}` did not end within {} s", LIMIT.as_secs())]
    TimedOut { program: String },
    #[error("`{program}` failed: {said}")]
    Failed { program: String, said: String },
    #[error("cannot ask the supervisor at {}", path.display())]
    Supervisor { path: PathBuf, source: io::Error },
}

/// What is known of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// systemd's ActiveState: `active` only after READY=1.
    pub active: String,
    pub restarts: u32,
    /// Milliseconds since kernel start when it last became active.
    pub since_ms: Option<u64>,
}

impl UnitState {
    /// Neither running nor about to.
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "" | "inactive" | "failed" | "unknown")
    }
}

/// Who runs the units here.
#[derive(Debug, Clone)]
pub enum Units {
    Systemd,
    Supervisor(PathBuf),
}

impl Units {
    /// The lab's supervisor where its folder is, else systemd.
    pub fn found(root: &Root) -> Self {
        let folder = root.path(SUPERVISOR);
        if folder.is_dir() { Self::Supervisor(folder) } else { Self::Systemd }
    }

    pub async fn state(&self, unit: &str) -> Result<UnitState, UnitError> {
        let said = match self {
            Self::Systemd => {
                let properties = "--property=ActiveState,NRestarts,ActiveEnterTimestampMonotonic";
                output("systemctl", &["show", properties, unit]).await?
            }
            Self::Supervisor(folder) => match ask(folder, unit, "status").await {
                // A supervisor that is not there runs nothing.
                Err(UnitError::Supervisor { .. }) => String::new(),
                other => other?,
            },
        };
        Ok(parse(&said))
    }

    pub async fn start(&self, unit: &str) -> Result<(), UnitError> {
        match self {
            Self::Systemd => output("systemctl", &["start", "--no-block", unit]).await.map(drop),
            Self::Supervisor(folder) => ask(folder, unit, "start").await.map(drop),
        }
    }
}

/// `systemctl show`'s lines; the supervisor answers `status` in the same words.
fn parse(text: &str) -> UnitState {
    let mut state = UnitState { active: "unknown".into(), ..UnitState::default() };
    for line in text.lines() {
        match line.split_once('=') {
            Some(("ActiveState", value)) => state.active = value.into(),
            Some(("NRestarts", value)) => state.restarts = value.parse().unwrap_or(0),
            Some(("ActiveEnterTimestampMonotonic", value)) => {
                let micros: u64 = value.parse().unwrap_or(0);
                state.since_ms = (micros > 0 && state.active == "active").then_some(micros / 1000);
            }
            Some(_) | None => {}
        }
    }
    state
}

async fn output(program: &str, arguments: &[&str]) -> Result<String, UnitError> {
    let program = || format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program().split(' ').next().unwrap_or_default());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| UnitError::TimedOut { program: program() })?
        .map_err(|source| UnitError::Run { program: program(), source })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(UnitError::Failed { program: program(), said });
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

async fn ask(folder: &std::path::Path, unit: &str, verb: &str) -> Result<String, UnitError> {
    let path = folder.join(format!("{unit}.sock"));
    let talk = async {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(format!("{verb}\n").as_bytes()).await?;
        stream.shutdown().await?;
        let mut said = String::new();
        stream.take(64 << 10).read_to_string(&mut said).await?;
        Ok(said)
    };
    match tokio::time::timeout(LIMIT, talk).await {
        Ok(said) => said.map_err(|source| UnitError::Supervisor { path, source }),
        Err(_) => Err(UnitError::TimedOut { program: format!("{verb} {unit}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_s_answer_is_read() {
        let active = parse("ActiveState=active\nNRestarts=2\nActiveEnterTimestampMonotonic=61500000\n");
        assert_eq!(active, UnitState { active: "active".into(), restarts: 2, since_ms: Some(61500) });
        let order = parse("NRestarts=0\nActiveState=inactive\nActiveEnterTimestampMonotonic=0\n");
        assert!(order.is_down() && order.since_ms.is_none());
        assert!(!parse("ActiveState=activating\n").is_down());
        assert!(parse("").is_down());
    }

    #[tokio::test]
    async fn a_supervisor_that_is_not_there_runs_nothing() {
        let units = Units::Supervisor(PathBuf::from("/nonexistent"));
        assert!(units.state("k3s.service").await.unwrap().is_down());
        assert!(units.start("k3s.service").await.is_err());
    }
}
