//! The service's lines, each with time and pid, to stdout or a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

#[derive(Clone)]
pub struct Output(Rc<RefCell<Box<dyn Write>>>);

impl Output {
    pub fn open(file: Option<&Path>) -> std::io::Result<Self> {
        let to: Box<dyn Write> = match file {
            Some(file) => Box::new(File::options().append(true).create(true).open(file)?),
            None => Box::new(std::io::stdout()),
        };
        Ok(Self(Rc::new(RefCell::new(to))))
    }

    pub fn line(&self, who: &str, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (s, ms) = (now.as_secs() % 86_400, now.subsec_millis());
        let time = format!("{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60);
        // a reader that went away is no reason to end the service
        let _ = writeln!(self.0.borrow_mut(), "{time} {who}: {text}");
    }

    /// Copy a pipe's lines until it closes.
    pub fn follow(&self, who: String, pipe: impl AsyncRead + Unpin + 'static) {
        let output = self.clone();
        tokio::task::spawn_local(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                output.line(&who, &line);
            }
        });
    }
}
