//! Starting and watching k3s's unit, through `systemctl`. The lab's supervisor, which runs the same unit file without
//! systemd, comes with a `systemctl` of its own.

use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Nothing here waits for a unit, so a slow answer is none.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error("cannot run systemctl")]
    Run(#[from] io::Error),
    #[error("`systemctl {what}` did not end within {} s", LIMIT.as_secs())]
    TimedOut { what: String },
    #[error("`systemctl {what}` failed: {said}")]
    Failed { what: String, said: String },
}

/// What is known of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// systemd's ActiveState: `active` only after READY=1. Empty when nobody could say.
    pub active: String,
    /// It failed and systemd will try again by itself.
    pub will_restart: bool,
    pub restarts: u32,
    /// Milliseconds since kernel start when it last became active.
    pub since_ms: Option<u64>,
}

impl UnitState {
    /// Neither running nor about to. What nobody could say is not down.
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

pub async fn state(unit: &str) -> Result<UnitState, UnitError> {
    let properties = "--property=ActiveState,SubState,NRestarts,ActiveEnterTimestampMonotonic";
    systemctl(&["show", properties, unit]).await.map(|said| parse(&said))
}

/// `--no-block`: systemd would wait until k3s is a voter, and there is no limit to that.
pub async fn start(unit: &str) -> Result<(), UnitError> {
    systemctl(&["start", "--no-block", unit]).await.map(drop)
}

/// For a k3s that runs and must pass the gate again.
pub async fn restart(unit: &str) -> Result<(), UnitError> {
    systemctl(&["restart", "--no-block", unit]).await.map(drop)
}

fn parse(text: &str) -> UnitState {
    let mut state = UnitState::default();
    let mut entered_us = 0_u64;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("ActiveState", value)) => state.active = value.into(),
            Some(("SubState", value)) => state.will_restart = value == "auto-restart",
            Some(("NRestarts", value)) => state.restarts = value.parse().unwrap_or(0),
            Some(("ActiveEnterTimestampMonotonic", value)) => entered_us = value.parse().unwrap_or(0),
            Some(_) | None => {}
        }
    }
    state.since_ms = (entered_us > 0 && state.active == "active").then_some(entered_us / 1000);
    state
}

async fn systemctl(arguments: &[&str]) -> Result<String, UnitError> {
    let what = || arguments.join(" ");
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| UnitError::TimedOut { what: what() })??;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(UnitError::Failed { what: what(), said });
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_s_answer_is_read_in_any_order() {
        let active = parse("ActiveEnterTimestampMonotonic=61500000\nActiveState=active\nNRestarts=2\n");
        assert_eq!(
            active,
            UnitState { active: "active".into(), will_restart: false, restarts: 2, since_ms: Some(61500) }
        );
        let stopped = parse("NRestarts=0\nActiveState=inactive\nActiveEnterTimestampMonotonic=5\n");
        assert!(stopped.is_down() && stopped.since_ms.is_none());
    }

    #[test]
    fn what_starts_or_is_unknown_is_not_down() {
        assert!(!parse("ActiveState=activating\n").is_down());
        assert!(parse("ActiveState=activating\nSubState=auto-restart\n").will_restart);
        assert!(!parse("").is_down());
        assert!(parse("ActiveState=failed\n").is_down());
    }
}
