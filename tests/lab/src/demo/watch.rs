//! What a person sees while it runs: a table that reprints itself on a terminal, one line per change elsewhere.

use super::status::Answer;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// One machine's row: from the status where it is known, else from its console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) class: String,
    pub(crate) address: String,
    pub(crate) doing: String,
    pub(crate) note: String,
}

#[derive(Debug)]
pub(crate) struct Watch {
    terminal: bool,
    printed: usize,
    before: BTreeMap<String, String>,
}

pub(crate) fn rows(names: &[String], answer: &Answer, console: impl Fn(&str) -> String) -> Vec<Row> {
    let row = |name: &String| match answer.machine(name).filter(|machine| machine.state.is_some()) {
        Some(machine) => Row {
            name: name.clone(),
            class: machine.class.detected.clone().unwrap_or_else(|| "?".into()),
            address: machine.address.clone().unwrap_or_default(),
            doing: machine.doing(),
            note: machine.reasons.first().cloned().unwrap_or_default(),
        },
        // not heard of yet: the console is all there is
        None => Row {
            name: name.clone(),
            class: "?".into(),
            address: String::new(),
            doing: "firmware".into(),
            note: console(name),
        },
    };
    names.iter().map(row).collect()
}

impl Watch {
    pub(crate) fn new(terminal: bool) -> Self {
        Self { terminal, printed: 0, before: BTreeMap::new() }
    }

    pub(crate) fn show(&mut self, since_power_on: Duration, rows: &[Row]) {
        let text =
            if self.terminal { self.table(since_power_on, rows) } else { self.changes(since_power_on, rows) };
        print!("{text}");
        let _ = std::io::stdout().flush();
    }

    /// What is printed next starts below the table.
    pub(crate) fn leave(&mut self) {
        self.printed = 0;
    }

    fn table(&mut self, since: Duration, rows: &[Row]) -> String {
        let mut out = String::new();
        if self.printed > 0 {
            let _ = write!(out, "\x1b[{}A", self.printed);
        }
        let _ = writeln!(
            out,
            "\x1b[K{:>6.0} s  {:12} {:10} {:15} {:24} note",
            since.as_secs_f64(),
            "machine",
            "detected",
            "address",
            "state"
        );
        for row in rows {
            let note: String = row.note.chars().take(60).collect();
            let _ = writeln!(
                out,
                "\x1b[K          {:12} {:10} {:15} {:24} {note}",
                row.name, row.class, row.address, row.doing
            );
        }
        self.printed = rows.len() + 1;
        out
    }

    /// Progress alone is no change: a log of percents helps nobody.
    fn changes(&mut self, since: Duration, rows: &[Row]) -> String {
        let mut out = String::new();
        for row in rows {
            let state = row
                .doing
                .split_once(" %")
                .map_or(&*row.doing, |_| row.doing.rsplit_once(' ').map_or("", |(s, _)| s));
            let state = state.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
            let now =
                if row.doing == "firmware" { state.to_owned() } else { format!("{state} {}", row.note) };
            if self.before.get(&row.name) != Some(&now) {
                let line =
                    format!("{:>6.1} s  {:12} {:24} {}", since.as_secs_f64(), row.name, row.doing, row.note);
                let _ = writeln!(out, "{}", line.trim_end());
                self.before.insert(row.name.clone(), now);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(doing: &str, note: &str) -> Vec<Row> {
        vec![Row {
            name: "a".into(),
            class: "mini-pc".into(),
            address: String::new(),
            doing: doing.into(),
            note: note.into(),
        }]
    }

    #[test]
    fn without_a_terminal_each_change_is_one_line_and_progress_is_none() {
        let mut watch = Watch::new(false);
        let second = Duration::from_secs(1);
        assert_eq!(watch.changes(second, &row("installing write 1 %", "")).lines().count(), 1);
        assert_eq!(watch.changes(second, &row("installing write 57 %", "")), "");
        assert_eq!(watch.changes(second, &row("installing verify 2 %", "")).lines().count(), 1);
        assert_eq!(watch.changes(second, &row("joining", "etcd member is a learner")).lines().count(), 1);
        assert_eq!(watch.changes(second, &row("joining", "the API server is not ready")).lines().count(), 1);
    }

    #[test]
    fn a_machine_that_nobody_heard_of_shows_its_console() {
        let rows = rows(&["a".into()], &Answer::default(), |_| "BdsDxe: starting".into());
        assert_eq!((&*rows[0].doing, &*rows[0].note), ("firmware", "BdsDxe: starting"));
    }
}
