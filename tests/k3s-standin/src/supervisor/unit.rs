//! The unit file: what of it counts here, what may be ignored, and what must be refused.

use crate::supervisor::command::{self, BadCommand, Command};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Simple,
    Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    OnFailure,
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// Only the main process is signalled; what it started lives on.
    Process,
    ControlGroup,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    pub kind: Kind,
    pub pre: Vec<Command>,
    pub start: Command,
    pub restart: Restart,
    pub restart_after: Duration,
    pub start_limit: Option<Duration>,
    pub stop_limit: Duration,
    pub kill_mode: KillMode,
    /// Path, and whether it may be missing.
    pub env_files: Vec<(String, bool)>,
    pub env: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    #[error("line {0}: not a section, a comment or KEY=VALUE")]
    Line(usize),
    #[error("{key}: {source}")]
    Command { key: String, source: BadCommand },
    #[error("{key}={value} is not honoured here")]
    Value { key: String, value: String },
    #[error("[Service] {0}= is not honoured here")]
    Key(String),
    #[error("no ExecStart=")]
    NoStart,
}

/// Keys of [Service] that change nothing in a lab: limits, identities, accounting.
const WITHOUT_EFFECT: &[&str] = &[
    "User",
    "Group",
    "Delegate",
    "LimitNOFILE",
    "LimitNPROC",
    "LimitCORE",
    "TasksMax",
    "OOMScoreAdjust",
    "Slice",
    "StandardOutput",
    "StandardError",
    "SyslogIdentifier",
    "NotifyAccess",
    "TimeoutSec",
    "RestartPreventExitStatus",
    "MemoryMax",
    "CPUWeight",
    "IOWeight",
    "UMask",
    "WorkingDirectory",
];

pub fn parse(text: &str, name: &str) -> Result<Unit, BadUnit> {
    let mut unit = Unit {
        name: name.to_owned(),
        kind: Kind::Simple,
        pre: Vec::new(),
        start: Command { may_fail: false, words: Vec::new() },
        restart: Restart::No,
        restart_after: Duration::from_millis(100),
        start_limit: Some(Duration::from_secs(90)),
        stop_limit: Duration::from_secs(90),
        kill_mode: KillMode::ControlGroup,
        env_files: Vec::new(),
        env: Vec::new(),
    };
    let mut section = String::new();
    let joined = text.replace("\\\n", " ");
    for (at, line) in joined.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(BadUnit::Line(at + 1))?;
        if section == "Service" {
            set(&mut unit, key.trim(), value.trim())?;
        }
    }
    if unit.start.words.is_empty() { Err(BadUnit::NoStart) } else { Ok(unit) }
}

fn set(unit: &mut Unit, key: &str, value: &str) -> Result<(), BadUnit> {
    let refused = || BadUnit::Value { key: key.to_owned(), value: value.to_owned() };
    let command = |value: &str| {
        command::parse(value, &unit.name).map_err(|source| BadUnit::Command { key: key.to_owned(), source })
    };
    match key {
        "Type" => {
            unit.kind = match value {
                "simple" | "exec" => Kind::Simple,
                "notify" => Kind::Notify,
                _ => return Err(refused()),
            };
        }
        "ExecStartPre" if value.is_empty() => unit.pre.clear(),
        "ExecStartPre" => {
            let command = command(value)?;
            unit.pre.push(command);
        }
        "ExecStart" => unit.start = command(value)?,
        "Restart" => {
            unit.restart = match value {
                "no" => Restart::No,
                "on-failure" => Restart::OnFailure,
                "always" => Restart::Always,
                _ => return Err(refused()),
            };
        }
        "RestartSec" => unit.restart_after = duration(value).ok_or_else(refused)?,
        "TimeoutStartSec" => {
            unit.start_limit = match value {
                "infinity" => None,
                _ => Some(duration(value).ok_or_else(refused)?).filter(|d| !d.is_zero()),
            };
        }
        "TimeoutStopSec" => unit.stop_limit = duration(value).ok_or_else(refused)?,
        "KillMode" => {
            unit.kill_mode = match value {
                "process" => KillMode::Process,
                "control-group" | "mixed" => KillMode::ControlGroup,
                _ => return Err(refused()),
            };
        }
        "EnvironmentFile" => {
            let file = command::specifiers(value, &unit.name)
                .map_err(|source| BadUnit::Command { key: key.to_owned(), source })?;
            match file.strip_prefix('-') {
                Some(file) => unit.env_files.push((file.to_owned(), true)),
                None => unit.env_files.push((file, false)),
            }
        }
        "Environment" => unit.env.extend(assignments(value).ok_or_else(refused)?),
        key if WITHOUT_EFFECT.contains(&key) => {}
        key => return Err(BadUnit::Key(key.to_owned())),
    }
    Ok(())
}

/// `A=b "C=d e"`.
fn assignments(text: &str) -> Option<Vec<(String, String)>> {
    let words = command::parse(&format!("x {text}"), "").ok()?.words;
    words[1..].iter().map(|w| w.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}

/// Lines `KEY=VALUE` of an EnvironmentFile; comments and empty lines are skipped.
pub fn env_file(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let line = line.trim();
        let (key, value) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        Some((key.trim().to_owned(), bare.unwrap_or(value).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// `5`, `5s`, `100ms`, `1min 30s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for part in text.split_whitespace() {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let n: u64 = part[..digits].parse().ok()?;
        total += match &part[digits..] {
            "" | "s" | "sec" => Duration::from_secs(n),
            "ms" => Duration::from_millis(n),
            "m" | "min" => Duration::from_secs(n.checked_mul(60)?),
            "h" => Duration::from_secs(n.checked_mul(3600)?),
            _ => return None,
        };
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// k3s's own unit with Muster's gate before it.
    pub(crate) const K3S: &str = "[Unit]\nDescription=Lightweight Kubernetes\nWants=network-online.target\n\n[Install]\nWantedBy=multi-user.target\n\n[Service]\nType=notify\nEnvironmentFile=-/etc/default/%N\nEnvironmentFile=-/etc/sysconfig/%N\nKillMode=process\nDelegate=yes\nUser=root\nLimitNOFILE=1048576\nLimitNPROC=infinity\nLimitCORE=infinity\nTasksMax=infinity\nTimeoutStartSec=0\nRestart=always\nRestartSec=5s\nExecStartPre=-/sbin/modprobe br_netfilter\nExecStartPre=/run/muster/bin/muster-agent k3s-gate\nExecStart=/usr/local/bin/k3s \\\n    server\n";

    #[test]
    fn k3s_s_unit_is_read_as_shipped() {
        let unit = parse(K3S, "k3s.service").unwrap();
        assert_eq!(
            (unit.kind, unit.restart, unit.kill_mode),
            (Kind::Notify, Restart::Always, KillMode::Process)
        );
        assert_eq!((unit.restart_after, unit.start_limit), (Duration::from_secs(5), None));
        assert_eq!(unit.pre.iter().map(|c| c.may_fail).collect::<Vec<_>>(), [true, false]);
        assert_eq!(unit.start.words, ["/usr/local/bin/k3s", "server"]);
        assert_eq!(unit.env_files[0], ("/etc/default/k3s".to_owned(), true));
    }

    #[test]
    fn a_key_that_would_change_behaviour_is_refused() {
        let with = |line: &str| parse(&format!("[Service]\nExecStart=/x\n{line}\n"), "u.service");
        assert_eq!(with("ExecStop=/y"), Err(BadUnit::Key("ExecStop".into())));
        assert!(matches!(with("Type=forking"), Err(BadUnit::Value { .. })));
        assert_eq!(parse("[Service]\n", "u.service"), Err(BadUnit::NoStart));
    }

    #[test]
    fn an_environment_file_has_quotes_and_comments() {
        let pairs = env_file("# no\nA=1\nB=\"x y\"\n\nnonsense\n");
        assert_eq!(pairs, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x y".to_owned())]);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("soon"), None);
    }
}
