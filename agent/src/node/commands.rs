//! Signed, single-use commands, run with this server's own certificates through `k3s`.
//!
//! The number of a command is on the disk before it runs, so no command runs twice; what came of it is told until the
//! provisioner stops asking.

use crate::node::probe::parse::k3s_version;
use crate::state::{Numbers, Root, SEEN, StateError};
use muster_protocol::etcd::NodeSeen;
use muster_protocol::grant::{Action, Command, CommandResult};
use muster_protocol::ids::Number;
use muster_protocol::signed::{By, Listener, Refused, Signed, Trust, Verified};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Longest text in a result (protocol: 2 KiB).
const MAX_TEXT: usize = 2048;

/// Which commands were begun and what came of them.
#[derive(Debug, Default)]
pub struct Ledger {
    running: Option<Number>,
    results: BTreeMap<Number, CommandResult>,
}

/// What to do with a command that came with a sync.
#[derive(Debug, PartialEq, Eq)]
pub enum Take {
    Run(Verified<Command>),
    /// Running, or its result is being told.
    Known,
    /// Number and outcome: it was begun by an earlier process of ours, or is older than one that was.
    Unknown(Number),
    Refused(Refused),
}

impl Ledger {
    /// Decides about one command; nothing is written here.
    pub fn take(
        &self,
        signed: &Signed<Command>,
        trust: &Trust,
        numbers: &Numbers,
        me: (&muster_protocol::ids::NodeName, muster_protocol::keys::Fingerprint),
        now: Option<u64>,
    ) -> Take {
        let to = Listener { me: Some(me), delegation: numbers.delegation, now, ..Listener::default() };
        let verified = match signed.verify(By::Online(trust), &to) {
            Ok(verified) => verified,
            Err(refused) => return Take::Refused(refused),
        };
        let fence = verified.get().fence;
        if self.running == Some(fence) || self.results.contains_key(&fence) {
            return Take::Known;
        }
        match numbers.command {
            Some(last) if fence <= last.number => Take::Unknown(fence),
            Some(_) | None => Take::Run(verified),
        }
    }

    /// Remembers on the disk that this command begins now.
    pub fn begin(&mut self, root: &Root, command: &Verified<Command>) -> Result<(), StateError> {
        let numbers = root.numbers()?;
        let delegation = numbers.delegation.max(command.delegation());
        root.save(SEEN, &Numbers { command: command.accepted(), delegation, ..numbers })?;
        self.running = Some(command.get().fence);
        Ok(())
    }

    pub fn ended(&mut self, fence: Number, outcome: Result<String, String>) {
        self.running = self.running.filter(|running| *running != fence);
        let outcome = match outcome {
            Ok(text) => Ok(cut(text)),
            Err(text) => Err(cut(text)),
        };
        self.results.insert(fence, CommandResult { fence, outcome });
    }

    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    pub fn results(&self) -> Vec<CommandResult> {
        self.results.values().cloned().collect()
    }

    /// After a sync that told `told`: a command the provisioner no longer sends is settled.
    pub fn settle(&mut self, told: &[CommandResult], still_asked: &[Number]) {
        for result in told {
            if !still_asked.contains(&result.fence) {
                self.results.remove(&result.fence);
            }
        }
    }
}

fn cut(mut text: String) -> String {
    let mut at = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
    text
}

/// Runs one action. `nodes` is what the API showed last.
pub async fn run(k3s: &Path, action: &Action, nodes: &[NodeSeen]) -> Result<String, String> {
    match action {
        Action::Snapshot { name } => {
            let name = safe_word(name)?;
            call(k3s, &["etcd-snapshot", "save", "--name", name], None, 120).await
        }
        Action::Apply { name, yaml } => {
            let arguments = [
                "kubectl",
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=muster",
                "-f",
                "-",
            ];
            let said = call(k3s, &arguments, Some(yaml), 60).await;
            said.map_err(|why| format!("add-on {name}: {why}"))
        }
        Action::Label { node, labels, taints } => {
            let seen = nodes.iter().find(|seen| seen.name == *node);
            let Some(seen) = seen else { return Err(format!("there is no Node {node}")) };
            let mut said = String::new();
            for (verb, changes) in
                [("label", label_changes(seen, labels)), ("taint", taint_changes(seen, taints))]
            {
                if changes.is_empty() {
                    continue;
                }
                let mut arguments = vec!["kubectl", verb, "node", node.as_str(), "--overwrite"];
                arguments.extend(changes.iter().map(String::as_str));
                said.push_str(&call(k3s, &arguments, None, 30).await?);
            }
            Ok(said)
        }
    }
}

/// As the binary says of itself.
pub async fn version(k3s: &Path) -> Option<String> {
    let said = call(k3s, &["--version"], None, 10).await.ok()?;
    k3s_version(&said)
}

/// Labels that are missing or differ; others are Kubernetes' and the operator's own.
fn label_changes(seen: &NodeSeen, wanted: &[(String, String)]) -> Vec<String> {
    let missing = |pair: &&(String, String)| !seen.labels.contains(*pair);
    wanted.iter().filter(missing).map(|(key, value)| format!("{key}={value}")).collect()
}

/// Taints to set, and declared ones to take away where they have another effect, with a `-` behind. Others are the
/// operator's own.
fn taint_changes(seen: &NodeSeen, wanted: &[String]) -> Vec<String> {
    let set = wanted.iter().filter(|taint| !seen.taints.contains(taint)).cloned();
    let key_and_effect = |taint: &str| {
        let (pair, effect) = taint.rsplit_once(':')?;
        Some((pair.split('=').next()?.to_owned(), effect.to_owned()))
    };
    let wanted_keys: Vec<_> = wanted.iter().filter_map(|taint| key_and_effect(taint)).collect();
    let declared = |key: &str| wanted_keys.iter().any(|(wanted, _)| wanted == key);
    let take = seen
        .taints
        .iter()
        .filter_map(|taint| key_and_effect(taint))
        // An overwritten value needs no removal of its old one.
        .filter(|found| declared(&found.0) && !wanted_keys.contains(found))
        .map(|(key, effect)| format!("{key}:{effect}-"));
    set.chain(take).collect()
}

/// What may stand as an argument of its own: no leading dash, no path.
fn safe_word(word: &str) -> Result<&str, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(fits) {
        Ok(word)
    } else {
        Err(format!("`{word}` is not a name"))
    }
}

async fn call(k3s: &Path, arguments: &[&str], input: Option<&str>, limit_s: u64) -> Result<String, String> {
    let mut command = tokio::process::Command::new(k3s);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let work = async {
        let mut child = command.spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let what = || format!("k3s {}", arguments.first().copied().unwrap_or_default());
    match tokio::time::timeout(Duration::from_secs(limit_s), work).await {
        Err(_) => Err(format!("{} did not end within {limit_s} s", what())),
        Ok(Err(error)) => Err(format!("cannot run {}: {error}", what())),
        Ok(Ok(done)) if done.status.success() => match String::from_utf8_lossy(&done.stdout).trim() {
            // `etcd-snapshot save` says what it saved in its log.
            "" => Ok(last_lines(&done.stderr, 1)),
            said => Ok(said.to_owned()),
        },
        Ok(Ok(done)) => Err(format!("{}: {}", what(), last_lines(&done.stderr, 10))),
    }
}

/// The end of what k3s logged, where its reason is. Before it, every key of config.yaml that only servers know is warned of
/// in a line of its own: more than a result may hold.
fn last_lines(log: &[u8], lines: usize) -> String {
    let log = String::from_utf8_lossy(log);
    let said = log.lines().filter(|line| !line.contains(SKIPPED_KEY) && !line.trim().is_empty());
    let said: Vec<&str> = said.collect();
    said[said.len().saturating_sub(lines)..].join("\n").trim().to_owned()
}

const SKIPPED_KEY: &str = " found in config.yaml, skipping";

#[cfg(test)]
mod tests {
    use super::*;

    /// As k3s v1.36.3 logs it, but with one of its 27 warnings.
    const SAVED: &str = "time=\"2026-11-24T13:14:09Z\" level=warning msg=\"Unknown flag --token-file found in config.yaml, skipping\\n\"
time=\"2026-11-24T13:14:09Z\" level=info msg=\"Snapshot manual-x-mini-pc-1-1795526049 saved.\"
";

    #[test]
    fn of_k3s_s_log_the_end_is_told_and_not_its_warnings_of_our_configuration() {
        let told = last_lines(SAVED.as_bytes(), 1);
        assert_eq!(told, SAVED.lines().last().unwrap());
        let warning = SAVED.lines().next().unwrap().to_owned() + "\n";
        let failed =
            warning.repeat(27) + "time=\"…\" level=fatal msg=\"Error: see server log for details\"\n";
        assert!(failed.len() > MAX_TEXT);
        assert!(last_lines(failed.as_bytes(), 10).contains("see server log"));
        assert_eq!(last_lines(warning.as_bytes(), 10), "");
        let many: String = (0..20).map(|n| format!("{n}\n")).collect();
        assert_eq!(last_lines(many.as_bytes(), 2), "18\n19");
    }
    use crate::node::testing::{Cluster, scratch};
    use std::os::unix::fs::PermissionsExt;

    fn command(n: u64) -> Command {
        Command {
            fence: Cluster::number(n),
            node: Cluster::name(1),
            key: Cluster::new().node(1).public().fingerprint(),
            action: Action::Snapshot { name: "before-join".into() },
            expires_at: 1_000,
        }
    }

    fn take(ledger: &Ledger, root: &Root, command: &Command, now: u64) -> Take {
        let cluster = Cluster::new();
        let numbers = root.numbers().unwrap();
        let name = Cluster::name(1);
        let me = (&name, cluster.node(1).public().fingerprint());
        ledger.take(&cluster.sign(command), &cluster.trust, &numbers, me, Some(now))
    }

    #[test]
    fn a_command_runs_once_and_is_told_until_it_is_not_asked_again() {
        let root = scratch();
        let mut ledger = Ledger::default();
        let Take::Run(verified) = take(&ledger, &root, &command(5), 10) else { panic!("should run") };
        ledger.begin(&root, &verified).unwrap();
        assert_eq!(take(&ledger, &root, &command(5), 10), Take::Known);
        ledger.ended(Cluster::number(5), Ok("done".into()));
        assert_eq!(take(&ledger, &root, &command(5), 10), Take::Known);
        let told = ledger.results();
        ledger.settle(&told, &[Cluster::number(5)]);
        assert_eq!(ledger.results(), told);
        ledger.settle(&told, &[]);
        assert!(ledger.results().is_empty());
    }

    #[test]
    fn a_begun_command_is_not_run_again_by_a_new_process() {
        let root = scratch();
        let mut ledger = Ledger::default();
        let Take::Run(verified) = take(&ledger, &root, &command(5), 10) else { panic!("should run") };
        ledger.begin(&root, &verified).unwrap();
        let after_crash = Ledger::default();
        assert_eq!(take(&after_crash, &root, &command(5), 10), Take::Unknown(Cluster::number(5)));
        assert_eq!(take(&after_crash, &root, &command(4), 10), Take::Unknown(Cluster::number(4)));
        assert!(matches!(take(&after_crash, &root, &command(6), 10), Take::Run(_)));
    }

    #[test]
    fn an_expired_or_foreign_command_is_refused() {
        let root = scratch();
        let ledger = Ledger::default();
        assert!(matches!(take(&ledger, &root, &command(5), 1_001), Take::Refused(Refused::Expired { .. })));
        let other = Command { node: Cluster::name(2), ..command(5) };
        assert!(matches!(take(&ledger, &root, &other, 10), Take::Refused(Refused::OtherNode { .. })));
    }

    #[test]
    fn only_what_differs_is_changed_and_kubernetes_own_taints_stay() {
        let seen = NodeSeen {
            name: Cluster::name(1),
            ready: true,
            taints: vec![
                "a=1:NoSchedule".into(),
                "b:NoExecute".into(),
                "node.kubernetes.io/x:NoSchedule".into(),
            ],
            labels: vec![("k".into(), "v".into()), ("other".into(), "x".into())],
            kubelet_version: String::new(),
            runtime_handlers: vec![],
        };
        let labels = [("k".into(), "v".into()), ("n".into(), "1".into())];
        assert_eq!(label_changes(&seen, &labels), ["n=1"]);
        let taints = ["a=2:NoSchedule".to_owned()];
        assert_eq!(taint_changes(&seen, &taints), ["a=2:NoSchedule"], "b is somebody else's");
        let moved = ["b:NoSchedule".to_owned()];
        assert_eq!(taint_changes(&seen, &moved), ["b:NoSchedule", "b:NoExecute-"]);
        assert!(taint_changes(&seen, &["a=1:NoSchedule".into(), "b:NoExecute".into()]).is_empty());
    }

    #[tokio::test]
    async fn output_input_and_failure_of_k3s_come_back() {
        let root = scratch();
        let k3s = root.path("/k3s");
        let script =
            "#!/bin/sh\ncase \"$1\" in kubectl) cat; echo \" $*\";; *) echo broken >&2; exit 1;; esac\n";
        std::fs::write(&k3s, script).unwrap();
        std::fs::set_permissions(&k3s, std::fs::Permissions::from_mode(0o755)).unwrap();
        let apply = Action::Apply { name: "rc".into(), yaml: "kind: RuntimeClass".into() };
        let said = run(&k3s, &apply, &[]).await.unwrap();
        assert!(
            said.starts_with("kind: RuntimeClass") && said.contains("--server-side --force-conflicts"),
            "{said}"
        );
        let failed = run(&k3s, &Action::Snapshot { name: "x".into() }, &[]).await;
        assert_eq!(failed, Err("k3s etcd-snapshot: broken".into()));
        let bad = run(&k3s, &Action::Snapshot { name: "--etcd-s3".into() }, &[]).await;
        assert_eq!(bad, Err("`--etcd-s3` is not a name".into()));
    }
}
