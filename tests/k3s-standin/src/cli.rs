//! What was asked, and the way there: `k3s server|agent|kubectl|etcd-snapshot|--version`.

use crate::base::log::say;
use crate::base::paths::{DEFAULT_DATA_DIR, Paths};
use crate::base::settings::{BadSettings, Role, Settings, Written, check_keys, read_files, read_flags};
use crate::base::{log, version};
use crate::etcd::{child, locate};
use crate::server::state::End;
use crate::{kubectl, server, snapshot, worker};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

const USAGE: &str = "usage: k3s server|agent [--KEY[=VALUE] …] | kubectl … | etcd-snapshot save|ls|delete … | --version\n\
                     This is a stand-in for k3s (docs/stand-in.md).";

/// Run, and return the exit status.
pub fn run(args: Vec<OsString>) -> i32 {
    let args: Vec<String> = args.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let called = args.first().map(PathBuf::from).and_then(|p| Some(p.file_name()?.to_str()?.to_owned()));
    let rest = args.get(1..).unwrap_or_default();
    // as the real binary, which is linked to kubectl
    if called.as_deref() == Some("kubectl") {
        return inside(kubectl::run::run(rest, &paths(None)));
    }
    let (verb, rest) = match rest.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("", rest),
    };
    match verb {
        "server" => serve(Role::Server, rest),
        "agent" => serve(Role::Agent, rest),
        "kubectl" => inside(kubectl::run::run(rest, &paths(None))),
        "etcd-snapshot" => match file_settings(&[]) {
            Ok(written) => inside(snapshot::run(rest, &written, &paths(data_dir(&written)))),
            Err(e) => End::Fatal(format!("Error: {e}")).tell(),
        },
        "--version" | "-v" => print_version(),
        "etcd-child" => {
            eprintln!("etcd-child: {}", child::become_etcd(rest));
            1
        }
        _ => {
            eprintln!("{USAGE}");
            2
        }
    }
}

fn serve(role: Role, args: &[String]) -> i32 {
    let word = match role {
        Role::Server => "server",
        Role::Agent => "agent",
    };
    note_start(word);
    let release = version::release(version::exe_dir().as_deref());
    log::info(&format!("Starting k3s {release} (stand-in)"));
    let (settings, paths) = match settings(role, args) {
        Ok(both) => both,
        Err(e) => return End::Fatal(format!("Error: {e}")).tell(),
    };
    let end = match role {
        Role::Server => inside(server::run::run(settings, paths, &release)),
        Role::Agent => inside(worker::run::run(settings, paths, &release)),
    };
    end.tell()
}

fn settings(role: Role, args: &[String]) -> Result<(Settings, Paths), BadSettings> {
    let mut written = file_settings(args)?;
    for key in check_keys(&mut written, role)? {
        log::warn(&format!("Unknown flag --{key} found in config.yaml, skipping\n"));
    }
    let mut flags = read_flags(args)?;
    if let Some(key) = check_keys(&mut flags, role)?.first() {
        return Err(BadSettings::Unknown(key.clone()));
    }
    written.extend(flags);
    Ok((Settings::meant(&written)?, paths(data_dir(&written))))
}

fn file_settings(args: &[String]) -> Result<Written, BadSettings> {
    let flags = read_flags(args)?;
    let named = flags.get("config").and_then(|v| v.last()).map(PathBuf::from);
    read_files(&named.unwrap_or_else(|| paths(None).rooted("/etc/rancher/k3s/config.yaml")))
}

fn data_dir(written: &Written) -> Option<&str> {
    written.get("data-dir").and_then(|v| v.last()).map(String::as_str)
}

/// K3S_STANDIN_ROOT moves /etc/rancher, /var/lib/rancher and /run/k3s; only the stand-in has it.
fn paths(data_dir: Option<&str>) -> Paths {
    let root = std::env::var_os("K3S_STANDIN_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    Paths::new(&root, Some(data_dir.unwrap_or(DEFAULT_DATA_DIR)))
}

fn print_version() -> i32 {
    let exe_dir = version::exe_dir();
    let etcd = match locate::find(exe_dir.as_deref()) {
        Ok(etcd) => format!("{} ({})", locate::version(&etcd), etcd.display()),
        Err(_) => "not found".to_owned(),
    };
    say!("{}", version::text(&version::release(exe_dir.as_deref()), &etcd));
    0
}

/// Tests count starts by the lines in this file.
fn note_start(word: &str) {
    let Some(file) = std::env::var_os("K3S_STANDIN_EXEC_LOG") else { return };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(&file);
    let line = format!("{} {} {word}\n", crate::base::clock::rfc3339_now(), std::process::id());
    if let Err(e) = opened.and_then(|mut f| f.write_all(line.as_bytes())) {
        log::warn(&format!("cannot count this start: {e}"));
    }
}

/// One thread for everything.
fn inside<T: Ending>(work: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, work),
        Err(e) => T::broken(&e),
    }
}

trait Ending {
    fn broken(e: &std::io::Error) -> Self;
}

impl Ending for i32 {
    fn broken(e: &std::io::Error) -> Self {
        End::Fatal(format!("cannot start the runtime: {e}")).tell()
    }
}

impl Ending for End {
    fn broken(e: &std::io::Error) -> Self {
        Self::Fatal(format!("cannot start the runtime: {e}"))
    }
}
