//! Log lines in the form that k3s prints (logrus text on stderr), so that what searches for its texts finds them here.

use crate::base::clock::rfc3339_now;
use std::io::Write;

pub fn info(msg: &str) {
    line("info", msg, &[]);
}

pub fn warn(msg: &str) {
    line("warning", msg, &[]);
}

pub fn error(msg: &str) {
    line("error", msg, &[]);
}

pub fn fatal(msg: &str) {
    line("fatal", msg, &[]);
}

pub fn info_with(msg: &str, fields: &[(&str, &str)]) {
    line("info", msg, fields);
}

/// A line that has its form already, such as etcd's own. A reader that went away is no reason to end.
pub fn raw(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line of data on stdout; unlike `println!`, a reader that has seen enough is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

fn line(level: &str, msg: &str, fields: &[(&str, &str)]) {
    raw(&text(&rfc3339_now(), level, msg, fields));
}

fn text(time: &str, level: &str, msg: &str, fields: &[(&str, &str)]) -> String {
    let mut line = format!("time={time:?} level={level} msg={msg:?}");
    for (key, value) in fields {
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@^+".contains(c));
        line += &if plain { format!(" {key}={value}") } else { format!(" {key}={value:?}") };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_looks_as_k3s_writes_it() {
        let recorded = include_str!("../../fixtures/logs/cluster-reset-with-server-set.log").trim_end();
        let msg = format!("Error: {}", k3s_model::texts::RESET_WITH_SERVER);
        assert_eq!(text("2026-11-24T03:35:19Z", "fatal", &msg, &[]), recorded);
    }

    #[test]
    fn quotes_in_a_message_are_escaped_as_recorded() {
        let recorded = include_str!("../../fixtures/logs/cluster-reset-restore.log");
        let msg = format!("Shutdown request received: {:?}", k3s_model::texts::RESET_DONE);
        assert!(recorded.contains(&text("2026-11-24T03:35:25Z", "error", &msg, &[])));
    }

    #[test]
    fn fields_follow_the_message() {
        let fields = [("address", "10.99.0.13"), ("name", "mini-pc-3-b6f869f6")];
        let line = text("t", "info", "Removing etcd member from cluster due to node delete", &fields);
        let recorded = include_str!("../../fixtures/logs/texts.txt");
        assert!(recorded.contains(line.split_once(" level").map(|(_, l)| l).unwrap_or_default()));
    }
}
