//! How a transfer ended, in the timeline's words.

use super::transfer::End;
use crate::boot::event::What;
use std::{io, time::Duration};

pub(super) fn ended(end: io::Result<End>, name: String, bytes: u64, took: Duration) -> What {
    let why = match end {
        Ok(End::Complete) => {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            return What::TftpDone { name, bytes, ms };
        }
        Ok(End::Probe) => return What::TftpProbe { name },
        Ok(End::NeverAnswered) => "the client never answered".into(),
        Ok(End::LastAckMissing) => "all was sent, the last acknowledgement is missing".into(),
        Ok(End::Silent { arrived, of }) => format!("the client fell silent after block {arrived} of {of}"),
        Ok(End::Aborted { code }) => format!("the client gave up with error {code}"),
        Err(error) => format!("cannot read or send: {error}"),
    };
    What::TftpFailed { name, why }
}
