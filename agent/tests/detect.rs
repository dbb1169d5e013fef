//! Detection against machines that are folders: `fixtures/machines/NAME` is a root, `NAME.json` what is expected.
//!
//! `MUSTER_BLESS=1` writes the expected files anew; a person reads the diff.

#![allow(clippy::unwrap_used, reason = "a test stops where its setup fails")]

use std::fs;
use std::path::{Path, PathBuf};

fn machines() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/machines");
    let mut machines: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    machines.sort();
    machines
}

#[test]
fn every_machine_is_detected_as_written_down() {
    let machines = machines();
    assert!(machines.len() >= 12, "fixtures are missing");
    let mut wrong = Vec::new();
    for machine in machines {
        let expected = machine.with_extension("json");
        let found = muster_agent::cli::detected(&machine).unwrap();
        if std::env::var_os("MUSTER_BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The name of a fixture begins with its class, where it has one.
#[test]
fn every_machine_is_of_the_class_its_name_says() {
    for machine in machines() {
        let name = machine.file_name().unwrap().to_string_lossy().into_owned();
        let class = ["mini-pc", "dgx-spark", "rtx-host"].into_iter().find(|class| name.starts_with(class));
        let found = muster_agent::cli::detected(&machine).unwrap();
        let expected = format!("\"class\": \"{}\"", class.unwrap_or("generic"));
        assert!(found.contains(&expected), "{name} is not {expected}:\n{found}");
    }
}

#[test]
fn a_hello_of_the_largest_machine_is_far_below_the_limit() {
    for machine in machines() {
        let inventory = muster_agent::detect::inventory(&machine);
        let bytes = muster_protocol::wire::encode(&inventory);
        assert!(bytes.len() < muster_protocol::sync::MAX_BODY / 8, "{}: {}", machine.display(), bytes.len());
        assert_eq!(muster_protocol::wire::decode(&bytes), Ok(inventory));
    }
}
