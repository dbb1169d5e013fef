//! `muster admission`: the window in which the first key of each declared machine is taken unseen.

use super::client::Client;
use super::exit::Failure;
use super::{Common, print};
use crate::serve::operator_api::OpenWindow;
use crate::store::rows::Window;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Take the first key of each declared machine, once, for a while
    Open(Open),
    /// End the window now
    Close,
}

#[derive(Debug, Args)]
pub(super) struct Open {
    /// How long: 30m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = minutes)]
    minutes: u64,
}

/// `30m`, `2h`, `90` (minutes).
fn minutes(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix('h') {
        Some(hours) => (hours, 60),
        None => (text.strip_suffix('m').unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a time such as 30m or 2h"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too long"))
}

pub(super) fn run(common: &Common, ask: &Ask) -> Result<(), Failure> {
    let mut client = Client::new(common)?;
    match ask {
        Ask::Open(open) => {
            let window: Window = client.post("/v1/admission", &OpenWindow { minutes: open.minutes })?;
            print::note(&format!(
                "the admission window is open until {} UTC\nrisk: whoever is first on this LAN with a declared MAC address gets that machine's place, and its secrets; afterwards compare the fingerprints on the consoles with `muster node list`, and close it with `muster admission close`",
                print::date(window.until_unix_ms)
            ));
        }
        Ask::Close => {
            let () = client.delete("/v1/admission")?;
            print::note("the admission window is closed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_minutes_or_hours() {
        assert_eq!((minutes("30m"), minutes("2h"), minutes("90")), (Ok(30), Ok(120), Ok(90)));
        assert!(
            minutes("soon").is_err() && minutes("30 m").is_err() && minutes("18446744073709551615h").is_err()
        );
    }
}
