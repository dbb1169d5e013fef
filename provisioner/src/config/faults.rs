//! Faults of `cluster.toml` and how they are shown: file, line, column, the line itself, a caret, a remedy.

use std::fmt;
use std::ops::Range;

/// One fault at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Bytes of the file.
    pub span: Range<usize>,
    pub what: String,
    pub hint: String,
}

/// All faults of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub file: String,
    pub text: String,
    pub faults: Vec<Fault>,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n\n")?;
            }
            show(f, &self.file, &self.text, fault)?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, file: &str, text: &str, fault: &Fault) -> fmt::Result {
    let place = Place::of(text, &fault.span);
    let number = place.line.to_string();
    let margin = " ".repeat(number.len());
    writeln!(f, "{}", fault.what)?;
    writeln!(f, "{margin}--> {file}:{number}:{}", place.column)?;
    writeln!(f, "{margin} |")?;
    writeln!(f, "{number} | {}", place.content)?;
    write!(f, "{margin} | {}{}", " ".repeat(place.column - 1), "^".repeat(place.width))?;
    if !fault.hint.is_empty() {
        write!(f, "\nhint: {}", fault.hint)?;
    }
    Ok(())
}

/// Where a span begins, as people count: from one, in characters.
struct Place<'a> {
    line: usize,
    column: usize,
    width: usize,
    content: &'a str,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let mut end = span.end.clamp(start, line_end);
        while !text.is_char_boundary(end) {
            end += 1;
        }
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].chars().count().max(1),
            content: text[line_start..line_end].trim_end_matches('\r'),
        }
    }
}

/// The parser's own refusals: unknown keys and words get a "did you mean".
pub fn of_toml(error: &toml::de::Error, text: &str) -> Fault {
    let message = error.message();
    let span = error.span().unwrap_or(0..0);
    let mut names = message.split('`').skip(1).step_by(2);
    let (what, hint) = if message.starts_with("unknown field") {
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        (format!("unknown key `{unknown}`"), did_you_mean(unknown, &known))
    } else if message.starts_with("missing field") {
        let missing = names.next().unwrap_or_default();
        (
            format!("`{missing}` is missing"),
            format!("add `{missing} = …` here; examples/cluster.toml shows every key"),
        )
    } else if message.starts_with("invalid type") {
        (message.to_string(), "examples/cluster.toml shows every key with its type".into())
    } else {
        let first = message.lines().next().unwrap_or_default();
        (format!("not valid TOML: {first}"), String::new())
    };
    // For a missing key the parser points at a whole table; its first line is enough, and the end of an empty file
    // has no character to point at.
    Fault { span: span.start.min(text.len())..span.end, what, hint }
}

/// A remedy for a word that is not known: the nearest known one, or all of them.
pub fn did_you_mean(unknown: &str, known: &[&str]) -> String {
    let near = known.iter().map(|word| (distance(unknown, word), word)).min();
    match near {
        Some((far, word)) if far <= 1 + word.chars().count() / 4 => format!("did you mean `{word}`?"),
        Some(_) => {
            format!("known are {}", known.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "))
        }
        None => String::new(),
    }
}

/// Damerau–Levenshtein in its simple form (optimal string alignment): swapped letters count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_proposed_and_a_far_one_is_not() {
        assert_eq!(did_you_mean("nmae", &["name", "mac"]), "did you mean `name`?");
        assert_eq!(did_you_mean("colour", &["name", "mac"]), "known are `name`, `mac`");
    }

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let text = "a = 1\n# é\nb = \"ü\" x\n";
        let at = text.find('x').unwrap();
        let place = Place::of(text, &(at..at + 1));
        assert_eq!((place.line, place.column, place.width), (3, 9, 1));
    }

    #[test]
    fn a_span_beyond_the_text_does_not_panic() {
        let fault = Fault { span: 90..99, what: "w".into(), hint: "h".into() };
        let faults = Faults { file: "f".into(), text: String::new(), faults: vec![fault] };
        assert!(faults.to_string().starts_with("w\n --> f:1:1"));
    }
}
