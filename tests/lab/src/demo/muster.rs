//! The real provisioner's binary, run at its place on the LAN with state of its own.

use crate::child::Child;
use crate::demo::status::Answer;
use crate::lan::{Lan, Place};
use crate::stop;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Muster<'a> {
    pub(crate) lan: &'a Lan,
    pub(crate) binary: PathBuf,
    /// State, configuration and logs below it.
    pub(crate) folder: PathBuf,
}

impl Muster<'_> {
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("cluster.toml")
    }

    /// Runs it to its end; its output goes to `muster.log`.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S], limit: Duration) -> Result<()> {
        let what = words(args);
        let (code, output) = self.ask(args, limit)?;
        if code == Some(0) {
            return Ok(());
        }
        let log = tail(&self.log(), 8);
        bail!(
            "`muster {what}` left with {}: {}{log}",
            code.map_or("a signal".into(), |c| format!("code {c}")),
            output.trim()
        )
    }

    /// Exit code and stdout.
    pub(crate) fn ask<S: AsRef<OsStr>>(&self, args: &[S], limit: Duration) -> Result<(Option<i32>, String)> {
        let mut command = self.command();
        command.args(args);
        let (child, mut output) = Child::start_piped("muster", command, &self.log())?;
        let reader = std::thread::Builder::new().name("muster-output".into()).spawn(move || {
            let mut text = Vec::new();
            let _ = output.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })?;
        let Some(status) = child.wait(limit)? else {
            child.kill();
            bail!("`muster {}` gave no answer in {limit:?}", words(args));
        };
        Ok((status.code(), reader.join().unwrap_or_default()))
    }

    /// Keeps what it says, on stdout and with which exit code, for whoever searches through the answers.
    /// `from`: who answers. Gives the exit code.
    pub(crate) fn keep_answer<S: AsRef<OsStr>>(&self, from: &str, args: &[S]) -> Result<Option<i32>> {
        let answers = self.folder.join("answers");
        std::fs::create_dir_all(&answers).with_context(|| answers.display().to_string())?;
        let (code, text) = self.ask(args, Duration::from_secs(60))?;
        let file = answers.join(format!("{from} {}", words(args)).replace(' ', "_"));
        let kept = format!("{text}\nexit code {code:?}\n");
        std::fs::write(&file, kept).with_context(|| file.display().to_string())?;
        Ok(code)
    }

    /// Every machine's state. The exit code is not looked at: it also says whether all are well.
    pub(crate) fn status(&self) -> Result<Answer> {
        let (_, text) = self.ask(&["status", "-o", "json"], Duration::from_secs(20))?;
        serde_json::from_str(&text).with_context(|| {
            format!("`muster status -o json` said `{}`", text.chars().take(200).collect::<String>())
        })
    }

    pub(crate) fn serve(&self) -> Result<Child> {
        let mut command = self.command();
        command.arg("serve");
        Child::start("muster serve", command, &self.folder.join("serve.log"))
    }

    /// Waits until the provisioner itself answers.
    pub(crate) fn wait_for_answer(&self, serve: &Child, limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let error = match self.status() {
                Ok(answer) if answer.source == "provisioner" => return Ok(()),
                Ok(answer) => anyhow::anyhow!("answered by `{}`", answer.source),
                Err(error) => error,
            };
            ensure!(
                serve.ended().is_none() && started.elapsed() < limit,
                "`muster serve` does not answer: {error:#}{}",
                tail(&self.folder.join("serve.log"), 8)
            );
            stop::pause(Duration::from_millis(300))?;
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("muster.log")
    }

    fn command(&self) -> Command {
        let mut command = self.lan.exec_in(Place::Provisioner, &self.binary);
        command
            .env("MUSTER_STATE", self.folder.join("provisioner"))
            .env("MUSTER_CONFIG", self.config())
            .env("XDG_STATE_HOME", self.folder.join("operator"))
            .env("NO_COLOR", "1");
        command
    }
}

/// The last lines of a log, indented, for an error message.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("\n  {line}")).collect()
}

fn words<S: AsRef<OsStr>>(args: &[S]) -> String {
    args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}
