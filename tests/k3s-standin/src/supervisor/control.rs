//! The control socket: one verb a line, one line back; a client for it, and a `systemctl` for programs that call that.

use crate::base::log::say;
use crate::supervisor::run::Shown;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// A stop may take its whole limit.
const ANSWER: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
    /// kill -9 of the main process; Restart= counts.
    Kill,
    Mask,
    Unmask,
    Status,
}

impl Verb {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "start" => Self::Start,
            "stop" => Self::Stop,
            "restart" => Self::Restart,
            "kill" => Self::Kill,
            "mask" => Self::Mask,
            "unmask" => Self::Unmask,
            "status" => Self::Status,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Mask => "mask",
            Self::Unmask => "unmask",
            Self::Status => "status",
        }
    }
}

/// A verb on its way to the loop.
pub struct Asked {
    pub verb: Verb,
    pub reply: oneshot::Sender<(Shown, Option<&'static str>)>,
}

pub fn listen(socket: &Path, tell: mpsc::UnboundedSender<Asked>) -> std::io::Result<()> {
    // a file left by a killed supervisor
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::task::spawn_local(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = tokio::io::BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = ask(&tell, line.trim()).await;
                    if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

async fn ask(tell: &mpsc::UnboundedSender<Asked>, line: &str) -> Value {
    let Some(verb) = Verb::parse(line) else { return json!({"error": format!("unknown verb {line:?}")}) };
    let (reply, answer) = oneshot::channel();
    if tell.send(Asked { verb, reply }).is_err() {
        return json!({"error": "the supervisor is leaving"});
    }
    match answer.await {
        Ok((_, Some(refused))) => json!({"error": refused}),
        Ok((shown, None)) => shown_json(&shown),
        Err(_) => json!({"error": "the supervisor is leaving"}),
    }
}

fn shown_json(shown: &Shown) -> Value {
    let (active, sub) = shown.state.words();
    json!({"active": active, "sub": sub, "main_pid": shown.main_pid, "restarts": shown.restarts,
           "masked": shown.masked, "result": shown.result})
}

/// Send one verb; the answer as JSON.
pub fn call(socket: &Path, verb: Verb) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    writeln!(stream, "{}", verb.word())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(std::io::Error::other)
}

/// `ctl SOCKET VERB`.
pub fn ctl(args: &[String]) -> i32 {
    let [socket, verb] = args else {
        eprintln!("usage: lab-supervisor ctl SOCKET VERB");
        return 2;
    };
    let Some(verb) = Verb::parse(verb) else {
        eprintln!("lab-supervisor: unknown verb `{verb}`");
        return 2;
    };
    match call(Path::new(socket), verb) {
        Ok(answer) => {
            say!("{answer}");
            i32::from(answer["error"].is_string())
        }
        Err(e) => {
            eprintln!("lab-supervisor: {socket}: {e}");
            1
        }
    }
}

/// `systemctl VERB [--no-block] UNIT…` for a program that calls it; sockets are `$LAB_SUPERVISOR_DIR/UNIT.sock`.
pub fn systemctl(args: &[String]) -> i32 {
    let words = words(args);
    let (Some(verb), Some(dir)) = (words.first(), std::env::var_os("LAB_SUPERVISOR_DIR")) else {
        eprintln!("systemctl (lab-supervisor): a verb and LAB_SUPERVISOR_DIR are needed");
        return 2;
    };
    let unit = match words.get(1) {
        Some(unit) if unit.ends_with(".service") => (*unit).to_owned(),
        Some(unit) => format!("{unit}.service"),
        None => String::new(),
    };
    let socket = PathBuf::from(dir).join(format!("{unit}.sock"));
    let verb = match *verb {
        // one supervisor is one unit that is always loaded
        "daemon-reload" | "enable" | "disable" | "reset-failed" => return 0,
        "is-active" | "is-failed" | "show" | "status" => Verb::Status,
        other => match Verb::parse(other) {
            Some(verb) => verb,
            None => {
                eprintln!("systemctl (lab-supervisor): `{other}` is not honoured here");
                return 2;
            }
        },
    };
    match call(&socket, verb) {
        Ok(answer) if answer["error"].is_string() => {
            eprintln!("Failed to {} {unit}: {}", verb.word(), answer["error"].as_str().unwrap_or_default());
            1
        }
        Ok(answer) => tell(words[0], args, &answer),
        Err(e) => {
            eprintln!("Unit {unit} could not be found: {}: {e}", socket.display());
            5
        }
    }
}

/// What is neither a flag nor the value of `-p`.
fn words(args: &[String]) -> Vec<&str> {
    let mut args = args.iter().map(String::as_str);
    let mut words = Vec::new();
    while let Some(arg) = args.next() {
        if matches!(arg, "-p" | "--property") {
            args.next();
        } else if !arg.starts_with('-') {
            words.push(arg);
        }
    }
    words
}

fn tell(verb: &str, args: &[String], answer: &Value) -> i32 {
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    match verb {
        "is-active" => {
            say!("{}", text("active"));
            if text("active") == "active" { 0 } else { 3 }
        }
        "is-failed" => {
            say!("{}", text("active"));
            i32::from(text("active") != "failed")
        }
        "show" | "status" => {
            let masked = answer["masked"] == true;
            let all = [
                ("LoadState", if masked { "masked" } else { "loaded" }.to_owned()),
                ("ActiveState", text("active")),
                ("SubState", text("sub")),
                ("MainPID", answer["main_pid"].to_string()),
                ("NRestarts", answer["restarts"].to_string()),
                ("Result", text("result")),
            ];
            let wanted = properties(args);
            let bare = args.iter().any(|a| a == "--value");
            for (key, value) in
                all.iter().filter(|(key, _)| wanted.is_empty() || wanted.contains(&(*key).to_owned()))
            {
                if bare {
                    say!("{value}");
                } else {
                    say!("{key}={value}");
                }
            }
            0
        }
        _ => 0,
    }
}

/// `-p A,B`, `-pA`, `--property=A`.
fn properties(args: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let named = match arg.as_str() {
            "-p" | "--property" => args.next().cloned(),
            other => {
                other.strip_prefix("--property=").or_else(|| other.strip_prefix("-p")).map(str::to_owned)
            }
        };
        out.extend(named.iter().flat_map(|n| n.split(',')).filter(|n| !n.is_empty()).map(str::to_owned));
    }
    out
}
