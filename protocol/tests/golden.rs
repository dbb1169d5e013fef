//! Golden bytes of version 1 of everything on the wire and on disk. A change here is a new version, not an edit.
//!
//! `MUSTER_BLESS=1 cargo test -p muster-protocol --test golden` writes files for statements that have none yet; it
//! never overwrites one.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod samples;

use muster_protocol::wire::{self, Versioned};
use samples::*;
use std::fmt::Debug;
use std::path::Path;

fn golden<T: Versioned + PartialEq + Debug>(name: &str, value: &T) {
    let bytes = wire::encode(value);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.v{}.hex", T::VERSION));
    if std::env::var_os("MUSTER_BLESS").is_some() && !path.exists() {
        let hex: Vec<String> =
            bytes.chunks(40).map(|row| row.iter().map(|b| format!("{b:02x}")).collect::<String>()).collect();
        std::fs::write(&path, hex.join("\n") + "\n").unwrap();
    }
    let hex: String = std::fs::read_to_string(&path).unwrap_or_default().split_whitespace().collect();
    let stored: Vec<u8> =
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    assert_eq!(stored, bytes, "{name}: the bytes of version {} have changed", T::VERSION);
    assert_eq!(&wire::decode::<T>(&stored).unwrap(), value, "{name} reads back");
}

#[test]
fn every_wire_type_keeps_its_bytes() {
    golden("trust", &trust());
    golden("beacon", &beacon());
    golden("inventory", &inventory());
    golden("hello", &hello());
    for (at, answer) in answers().iter().enumerate() {
        golden(&format!("answer-{at}"), answer);
    }
    golden("manifest", &manifest());
    golden("order", &order());
    golden("marker", &marker());
    golden("image", &image());
    golden("roster", &roster());
    for (at, grant) in grants().iter().enumerate() {
        golden(&format!("grant-{at}"), grant);
    }
    for (at, command) in commands().iter().enumerate() {
        golden(&format!("command-{at}"), command);
    }
    golden("status", &status());
    golden("sync-request", &sync_request());
    golden("sync-reply", &sync_reply());
    golden("claim", &claim());
    golden("question", &question());
    golden("brief", &brief());
}
