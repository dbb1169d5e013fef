//! lab-supervisor: runs one systemd unit file as shipped, where there is no systemd.
//!
//! It honours what k3s's units use: ExecStartPre with its `-`, ExecStart, Type=notify, Restart, RestartSec, EnvironmentFile,
//! KillMode, TimeoutStartSec, `%N`. A key that would change behaviour and is not honoured is refused, not skipped.

pub mod command; // command lines: quotes, variables, specifiers
pub mod control; // the socket, its client, and a `systemctl` that speaks to it
pub mod output; // the service's lines, with time and pid
pub mod run; // the loop
pub mod unit; // the unit file

use std::ffi::OsString;
use std::path::PathBuf;

const USAGE: &str = "usage: lab-supervisor UNIT.service [--root DIR] [--env KEY=VALUE]… [--control SOCKET] [--log FILE] [--inactive]\n\
       lab-supervisor ctl SOCKET start|stop|restart|kill|mask|unmask|status\n\
       systemctl VERB UNIT (by a link of that name; sockets are $LAB_SUPERVISOR_DIR/UNIT.sock)";

/// What a call asks for.
pub struct Options {
    pub unit: PathBuf,
    pub root: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    pub control: Option<PathBuf>,
    pub log: Option<PathBuf>,
    /// Do not start the service until told to.
    pub inactive: bool,
}

/// Run, and return the exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let args: Vec<String> = args.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let called = args.first().map(PathBuf::from);
    let called = called.as_deref().and_then(|p| p.file_name()?.to_str());
    let rest = args.get(1..).unwrap_or_default();
    if called == Some("systemctl") {
        return control::systemctl(rest);
    }
    match rest.first().map(String::as_str) {
        Some("ctl") => control::ctl(rest.get(1..).unwrap_or_default()),
        Some("die-with") => {
            eprintln!(
                "lab-supervisor: {}",
                crate::etcd::child::become_child(rest.get(1..).unwrap_or_default())
            );
            127
        }
        Some(_) => match options(rest) {
            Ok(options) => run::main(&options),
            Err(why) => {
                eprintln!("lab-supervisor: {why}\n{USAGE}");
                2
            }
        },
        None => {
            eprintln!("{USAGE}");
            2
        }
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        unit: PathBuf::new(),
        root: None,
        env: Vec::new(),
        control: None,
        log: None,
        inactive: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--root" => options.root = Some(value()?.into()),
            "--control" => options.control = Some(value()?.into()),
            "--log" => options.log = Some(value()?.into()),
            "--inactive" => options.inactive = true,
            "--env" => {
                let pair = value()?;
                let (key, value) =
                    pair.split_once('=').ok_or_else(|| format!("`{pair}` is not KEY=VALUE"))?;
                options.env.push((key.to_owned(), value.to_owned()));
            }
            flag if flag.starts_with('-') => return Err(format!("unknown flag `{flag}`")),
            unit => options.unit = unit.into(),
        }
    }
    if options.unit.as_os_str().is_empty() { Err("no unit file named".to_owned()) } else { Ok(options) }
}
