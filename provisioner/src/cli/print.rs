//! What people see: no control bytes from machines, no meaning by colour alone, plain columns.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Text from a machine must not move the cursor, ring, or colour.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same, but lines stay lines.
pub(super) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

pub(super) fn error(text: &str, hints: &[String]) {
    let mut all = format!("muster: {}\n", clean_lines(text));
    for hint in hints {
        all.push_str(&format!("hint: {}\n", clean_lines(hint)));
    }
    // Nobody is left to be told.
    let _told = io::stderr().lock().write_all(all.as_bytes());
}

/// For people, beside the data.
pub(super) fn note(text: &str) {
    let _told = io::stderr().lock().write_all(format!("{}\n", clean_lines(text)).as_bytes());
}

pub(super) fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(out(&text)?)
}

/// Columns as wide as their widest cell; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// `1.5 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: &[(u64, &str)] = &[(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// `12 s ago`, `3 min ago`.
pub(super) fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    match now_unix_ms.saturating_sub(then_unix_ms) / 1000 {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s @ 7200..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// UTC, `2026-11-24 07:27:51` (days to date by Howard Hinnant's civil_from_days).
pub(super) fn date(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A terminal that wants colours.
pub(super) fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    !set("NO_COLOR") && (set("CLICOLOR_FORCE") || (io::stdout().is_terminal() && !dumb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\u{9b}c\r\n"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}\u{fffd}");
        let text = table(&["A"], &[vec!["x\x07y".into()]]);
        assert_eq!(text, "A\nx\u{fffd}y\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["long-name".into(), "x".into()], vec!["b".into(), "y".into()]];
        assert_eq!(table(&["NAME", "S"], &rows), "NAME       S\nlong-name  x\nb          y\n");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(64 << 30), "64.0 GiB");
        assert_eq!(ago(200_000, 80_000), "2 min ago");
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(1_795_505_271_000), "2026-11-24 07:27:51");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00:00");
    }
}
