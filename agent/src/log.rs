//! Where log lines go: as PID 1 to the kernel's ring buffer and every console, as a service to stderr.
//!
//! One line per event, fields behind the message, no colours: serial consoles and journald are the readers. The last
//! lines are kept, so that a failing boot can send them along.

use crate::console;
use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How many lines are kept for a report.
const KEPT: usize = 60;
/// Longest line; a peer's text may be part of one.
const LONGEST: usize = 600;

/// Everything that [`console`] and the reports need: made once, lives as long as the process.
pub struct Log {
    inner: Mutex<Inner>,
    level: Level,
}

struct Inner {
    kmsg: Option<File>,
    consoles: Vec<File>,
    stderr: bool,
    stamped: bool,
    kept: VecDeque<String>,
}

impl Log {
    /// For a service or a command: stderr, which journald stamps.
    pub fn to_stderr() -> Self {
        Self::new(false)
    }

    /// For PID 1: what the kernel gave it as stderr, stamped, until [`Self::attach`] finds the real consoles.
    pub fn of_pid_1() -> Self {
        Self::new(true)
    }

    /// For PID 1, once there is a `/dev`: the kernel's ring buffer and all consoles below `root`, and stderr no longer
    /// where there is any of them.
    pub fn attach(&self, root: &Path) {
        let kmsg = File::options().write(true).open(root.join("dev/kmsg")).ok();
        let consoles = console::open_all(root);
        self.with(|inner| {
            inner.stderr = consoles.is_empty();
            inner.kmsg = kmsg;
            inner.consoles = consoles;
        });
    }

    fn new(stamped: bool) -> Self {
        let inner = Inner { kmsg: None, consoles: Vec::new(), stderr: true, stamped, kept: VecDeque::new() };
        Self { inner: Mutex::new(inner), level: Level::INFO }
    }

    /// Makes this log the process's one; lives for ever.
    pub fn install(self) -> &'static Self {
        let log: &'static Self = Box::leak(Box::new(self));
        // A second log would be a mistake in main; the first one then stays.
        if tracing::subscriber::set_global_default(log).is_err() {
            log.line("a second log was started");
        }
        log
    }

    /// The newest lines, oldest first.
    pub fn kept(&self) -> Vec<String> {
        self.with(|inner| inner.kept.iter().cloned().collect())
    }

    /// Text for a person on all consoles, as it is.
    pub fn show(&self, text: &str) {
        self.with(|inner| {
            for console in &inner.consoles {
                console::write(console, text.replace('\n', "\r\n").as_bytes());
            }
            if inner.stderr {
                eprint!("{text}");
            }
        });
    }

    fn line(&self, text: &str) {
        let stamp = uptime();
        self.with(|inner| {
            if let Some(kmsg) = &mut inner.kmsg {
                // Facility user, level debug: kept in the ring buffer (and by pstore) without being printed on the
                // consoles a second time. A full or rate-limited buffer loses a line; the consoles still have it.
                let _lost = kmsg.write_all(format!("<15>muster: {text}\n").as_bytes());
            }
            for console in &inner.consoles {
                console::write(console, format!("{stamp} muster: {text}\r\n").as_bytes());
            }
            match (inner.stderr, inner.stamped) {
                (true, true) => eprintln!("{stamp} muster: {text}"),
                (true, false) => eprintln!("{text}"),
                (false, _) => {}
            }
            if inner.kept.len() == KEPT {
                inner.kept.pop_front();
            }
            inner.kept.push_back(format!("{stamp} {text}"));
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic while a line was written leaves nothing half done that matters.
        work(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// As the kernel stamps its own lines.
pub(crate) fn uptime() -> String {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or((0, 0), |now| (now.tv_sec(), now.tv_nsec() / 1000));
    format!("[{:5}.{:06}]", now.0, now.1)
}

impl Subscriber for &'static Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mark = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO | Level::DEBUG | Level::TRACE => "",
        };
        let mut text: String = format!("{mark}{}{}", line.message, line.fields);
        // A field may hold a peer's words: no escapes reach a terminal.
        text.retain(|c| !c.is_control());
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
        }
        self.line(&text);
    }

    // Spans are not used.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: &dyn std::fmt::Display) {
        // Writing to a String has no error path.
        let _ok = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if value.contains(' ') {
            self.add(field, &format_args!("\"{value}\""))
        } else {
            self.add(field, &value)
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_escapes_are_not() {
        let log: &'static Log = Box::leak(Box::new(Log::to_stderr()));
        tracing::subscriber::with_default(log, || {
            for n in 0..100 {
                tracing::info!(n, peer = "a\x1b[2Jb", "line");
            }
            tracing::debug!("not wanted");
        });
        let kept = log.kept();
        assert_eq!(kept.len(), KEPT);
        assert!(kept.last().unwrap().ends_with("line n=99 peer=a[2Jb"), "{:?}", kept.last());
    }
}
