//! What a command ends with: 0 done, 1 failed or the answer is no, 2 wrong usage, 3 not found, 4 not allowed or not
//! signed, 5 not in time, 6 done and something was found.

use super::print;
use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Failed,
    Usage,
    NotFound,
    Denied,
    TimedOut,
    Findings,
}

impl Code {
    fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::TimedOut => 5,
            Self::Findings => 6,
        }
    }
}

/// A command that was not done, or that found something.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    /// `None` when everything was said on stdout already.
    pub error: Option<anyhow::Error>,
}

impl Failure {
    pub(super) fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    pub(super) fn findings() -> Self {
        Self { code: Code::Findings, error: None }
    }

    /// The end of the program: says why, if there is a why, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if self.say() { ExitCode::from(self.code.number()) } else { ExitCode::SUCCESS }
    }

    /// Prints the chain of causes once, hints last. Tells whether it is a failure at all.
    pub(super) fn say(&self) -> bool {
        if let Some(error) = &self.error {
            // Whoever read our output has gone: that is their end, not our failure. A connection that broke is one, and
            // lies deeper in the chain.
            let broken = error.downcast_ref::<std::io::Error>();
            if broken.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
                return false;
            }
            let (mut texts, mut hints) = (Vec::<String>::new(), Vec::new());
            for cause in error.chain() {
                let text = cause.to_string();
                let (what, hint) =
                    text.split_once("\nhint: ").map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
                // A transparent error says the same as its source.
                if texts.last().is_none_or(|last| last != what) {
                    texts.push(what.into());
                    hints.extend(hint.map(ToString::to_string));
                }
            }
            print::error(&texts.join(": "), &hints);
        }
        true
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Code::Failed, error)
    }
}
