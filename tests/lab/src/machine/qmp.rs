//! QEMU's control socket: one command, one answer, events skipped.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("control socket {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut ask = |question: Value| -> Result<Value> {
        (&stream).write_all(format!("{question}\n").as_bytes())?;
        for line in answers.by_ref() {
            let answer: Value = serde_json::from_str(&line.context("reading from QEMU")?)?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused `{command}`: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
        }
        bail!("QEMU left during `{command}`")
    };
    ask(json!({ "execute": "qmp_capabilities" }))?;
    ask(json!({ "execute": command, "arguments": arguments }))
}
