//! What a machine said on its serial line, each line with the host's clock, on disk and in memory; waits for words.

use super::text::Text;
use crate::{clock_ms, locked, stop};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Lives as long as the machine, through all its power cycles.
#[derive(Debug, Clone)]
pub struct Console {
    file: PathBuf,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug)]
struct State {
    file: File,
    lines: Vec<Line>,
    /// The unfinished line: a prompt has no line feed.
    open: String,
    /// No program writes to it now.
    ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Host clock, milliseconds since 1970, at the line's end.
    pub at_ms: u64,
    pub text: String,
}

/// A place in the text: `wait_after` looks only at what came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(usize);

impl Console {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let what = || format!("console file {}", file.display());
        let open = File::options().append(true).create(true).open(file).with_context(what)?;
        let state = State { file: open, lines: Vec::new(), open: String::new(), ended: true };
        Ok(Self { file: file.into(), state: Arc::new((Mutex::new(state), Condvar::new())) })
    }

    /// `<unix ms> <text>` for each line.
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn mark(&self) -> Mark {
        Mark(locked(&self.state.0).lines.len())
    }

    pub fn lines(&self) -> Vec<Line> {
        locked(&self.state.0).lines.clone()
    }

    /// All that was said so far, without the clock.
    pub fn text(&self) -> String {
        let state = locked(&self.state.0);
        let mut out: String = state.lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect();
        out += &state.open;
        out
    }

    /// Has it said this, after `mark`?
    pub fn said_after(&self, mark: Mark, words: &str) -> Option<Line> {
        locked(&self.state.0).find(mark, words)
    }

    /// Waits until it says this, anywhere in a line. Text from before `mark` does not count.
    pub fn wait_after(&self, mark: Mark, words: &str, limit: Duration) -> Result<Line> {
        let until = Instant::now() + limit;
        let mut state = locked(&self.state.0);
        loop {
            if let Some(line) = state.find(mark, words) {
                return Ok(line);
            }
            let (ended, late) = (state.ended, Instant::now() >= until);
            if ended || late {
                let last: Vec<&str> =
                    state.lines.iter().rev().take(3).rev().map(|line| &*line.text).collect();
                let why = if ended { "the machine is off".into() } else { format!("{limit:?} are over") };
                anyhow::bail!("console never said `{words}`: {why}; last lines: {}", last.join(" | "));
            }
            // slices, so that a stop is noticed
            (state, _) = self
                .state
                .1
                .wait_timeout(state, Duration::from_millis(200))
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            stop::pause(Duration::ZERO)?;
        }
    }

    /// Reads a program's output to its end, in a thread of its own. `echo` sees each line as well.
    pub(crate) fn follow(&self, mut from: impl Read + Send + 'static, echo: Option<Echo>) -> Result<()> {
        locked(&self.state.0).ended = false;
        let console = self.clone();
        std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut text = Text::default();
            let mut buffer = [0; 4096];
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => console.add(text.feed(&buffer[..n]), text.open(), echo.as_ref()),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            console.add(text.feed(b"\n"), String::new(), echo.as_ref());
            locked(&console.state.0).ended = true;
            console.state.1.notify_all();
        })?;
        Ok(())
    }

    fn add(&self, lines: Vec<String>, open: String, echo: Option<&Echo>) {
        let at_ms = clock_ms();
        let mut state = locked(&self.state.0);
        for text in lines {
            let line = Line { at_ms, text };
            if let Err(error) = writeln!(state.file, "{} {}", line.at_ms, line.text) {
                eprintln!("lab: {}: {error}", self.file.display());
            }
            if let Some(Echo(echo)) = echo {
                echo(&line);
            }
            state.lines.push(line);
        }
        state.open = open;
        self.state.1.notify_all();
    }
}

/// Called with each finished line.
#[derive(Clone)]
pub struct Echo(pub Arc<dyn Fn(&Line) + Send + Sync>);

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Echo")
    }
}

impl State {
    fn find(&self, mark: Mark, words: &str) -> Option<Line> {
        let said = self.lines.get(mark.0..)?.iter().find(|line| line.text.contains(words)).cloned();
        said.or_else(|| {
            self.open.contains(words).then(|| Line { at_ms: clock_ms(), text: self.open.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn console() -> (TempDir, Console) {
        let folder = tempfile::tempdir().unwrap();
        let console = Console::open(&folder.path().join("console")).unwrap();
        (folder, console)
    }

    #[test]
    fn a_wait_ends_when_the_words_come() {
        let (_folder, console) = console();
        let (read, mut write) = std::io::pipe().unwrap();
        console.follow(read, None).unwrap();
        let waiting = std::thread::spawn({
            let console = console.clone();
            move || console.wait_after(Mark::default(), "login:", Duration::from_secs(20))
        });
        write.write_all(b"booting\r\nhost login: ").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().text, "host login: ");
    }

    #[test]
    fn words_from_before_the_mark_do_not_count_and_an_ended_machine_ends_the_wait() {
        let (_folder, console) = console();
        let (read, mut write) = std::io::pipe().unwrap();
        console.follow(read, None).unwrap();
        write.write_all(b"first boot\n").unwrap();
        console.wait_after(Mark::default(), "first", Duration::from_secs(20)).unwrap();
        let mark = console.mark();
        drop(write);
        let error = console.wait_after(mark, "first", Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("the machine is off") && error.contains("first boot"), "{error}");
        let file = std::fs::read_to_string(console.file()).unwrap();
        let (stamp, text) = file.trim_end().split_once(' ').unwrap();
        assert!(stamp.parse::<u64>().unwrap() > 1_700_000_000_000);
        assert_eq!(text, "first boot");
    }
}
