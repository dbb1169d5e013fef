//! kubectl's arguments, for the verbs that are known here.

/// A call, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub verb: String,
    /// Words that are no flags.
    pub words: Vec<String>,
    pub output: Option<String>,
    pub raw: Option<String>,
    pub file: Option<String>,
    pub namespace: Option<String>,
    pub field_manager: String,
    pub overwrite: bool,
    pub server_side: bool,
    pub wait: bool,
    pub ignore_not_found: bool,
    pub timeout_s: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCall {
    #[error("no verb given")]
    Empty,
    #[error(
        "unknown flag: {0}\nhint: the stand-in's kubectl knows the flags that Muster uses only (docs/stand-in.md)"
    )]
    Flag(String),
    #[error("flag needs an argument: {0}")]
    NoValue(String),
}

/// Flags that are accepted and change nothing here: there are no pods.
const NO_EFFECT: &[&str] = &[
    "--ignore-daemonsets",
    "--delete-emptydir-data",
    "--force",
    "--force-conflicts",
    "--disable-eviction",
    "--now",
    "--no-headers",
];
const NO_EFFECT_WITH_VALUE: &[&str] = &[
    "--grace-period",
    "--pod-selector",
    "--request-timeout",
    "--skip-wait-for-delete-timeout",
    "--kubeconfig",
    "--validate",
    "--cascade",
];

pub fn parse(args: &[String]) -> Result<Call, BadCall> {
    let mut call = Call {
        verb: String::new(),
        words: Vec::new(),
        output: None,
        raw: None,
        file: None,
        namespace: None,
        field_manager: "kubectl".to_owned(),
        overwrite: false,
        server_side: false,
        wait: true,
        ignore_not_found: false,
        timeout_s: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !arg.starts_with('-') || arg == "-" {
            if call.verb.is_empty() {
                call.verb.clone_from(arg);
            } else {
                call.words.push(arg.clone());
            }
            continue;
        }
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None if arg.starts_with("-o") && arg.len() > 2 => ("-o", Some(arg[2..].to_owned())),
            None => (arg.as_str(), None),
        };
        let truth = inline.as_deref() != Some("false");
        let mut value =
            || inline.clone().or_else(|| args.next().cloned()).ok_or_else(|| BadCall::NoValue(flag.into()));
        match flag {
            "-o" | "--output" => call.output = Some(value()?),
            "--raw" => call.raw = Some(value()?),
            "-f" | "--filename" => call.file = Some(value()?),
            "-n" | "--namespace" => call.namespace = Some(value()?),
            "--field-manager" => call.field_manager = value()?,
            "--timeout" => call.timeout_s = seconds(&value()?),
            "--overwrite" => call.overwrite = truth,
            "--server-side" => call.server_side = truth,
            "--wait" => call.wait = truth,
            "--ignore-not-found" => call.ignore_not_found = truth,
            flag if NO_EFFECT.contains(&flag) => {}
            flag if NO_EFFECT_WITH_VALUE.contains(&flag) => drop(value()?),
            other => return Err(BadCall::Flag(other.to_owned())),
        }
    }
    if call.verb.is_empty() { Err(BadCall::Empty) } else { Ok(call) }
}

/// `120s`, `5m`, `90`; 0 means no limit.
fn seconds(text: &str) -> Option<u64> {
    let n = if let Some(minutes) = text.strip_suffix('m') {
        minutes.parse::<u64>().ok()?.checked_mul(60)?
    } else {
        text.strip_suffix('s').unwrap_or(text).parse().ok()?
    };
    (n > 0).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Result<Call, BadCall> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_calls_of_the_agent_are_understood() {
        let drain = call("drain mini-pc-2 --ignore-daemonsets --delete-emptydir-data --timeout=5m").unwrap();
        assert_eq!((drain.words, drain.timeout_s), (vec!["mini-pc-2".to_owned()], Some(300)));
        let apply = call("apply --server-side --force-conflicts --field-manager=muster -f -").unwrap();
        assert_eq!((apply.file.as_deref(), apply.field_manager.as_str()), (Some("-"), "muster"));
        assert!(apply.server_side);
        let get = call("get nodes -o json").unwrap();
        assert_eq!((get.words, get.output.as_deref()), (vec!["nodes".to_owned()], Some("json")));
        assert_eq!(call("get --raw /readyz?verbose").unwrap().raw.as_deref(), Some("/readyz?verbose"));
    }

    #[test]
    fn an_unknown_flag_is_named() {
        assert_eq!(call("get nodes --watch"), Err(BadCall::Flag("--watch".into())));
        assert_eq!(call("get nodes -o"), Err(BadCall::NoValue("-o".into())));
        assert_eq!(call(""), Err(BadCall::Empty));
    }
}
