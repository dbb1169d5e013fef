//! `cluster.toml`: read strictly, all faults at once, each with its place and its remedy.
//!
//! What is written ([`wire`]) and what is meant ([`meant`]) are two types; nothing else in the program sees the first.

/// Faults and how they are shown.
pub mod faults;
/// The configuration after every check.
pub mod meant;
/// From written to meant, section by section.
mod read;
/// Machines: from written to meant.
mod read_machine;
/// The file's own shape.
pub mod wire;

use faults::Faults;
use meant::Config;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "no cluster.toml in this directory nor in /etc/muster\nhint: write one, or name it with --config FILE or MUSTER_CONFIG"
    )]
    NotFound,
    #[error("{0}")]
    Faulty(#[from] Faults),
}

/// The file that was named, or the first that exists: `./cluster.toml`, `/etc/muster/cluster.toml`.
pub fn find(named: Option<&Path>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    ["cluster.toml", "/etc/muster/cluster.toml"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or(ConfigError::NotFound)
}

/// Reads and checks the file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
    Ok(parse(&path.display().to_string(), &text)?)
}

/// Checks a text; `name` is the file's name in messages.
pub fn parse(name: &str, text: &str) -> Result<Config, Faults> {
    let fail = |faults| Faults { file: name.into(), text: text.into(), faults };
    let file: wire::File = toml::from_str(text).map_err(|error| fail(vec![faults::of_toml(&error, text)]))?;
    read::config(&file).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Each fixture has one fault, named by its file name; the expected message lies beside it.
    /// `BLESS=1 cargo test` writes what the program says now; a person reads the diff.
    #[test]
    fn every_faulty_fixture_gives_its_expected_message() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
        let mut seen = 0;
        let mut wrong = Vec::new();
        let mut entries: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(path).unwrap();
            let said = match parse(&name, &text) {
                Ok(_) => "accepted".to_string(),
                Err(faults) => faults.to_string(),
            };
            let expected = path.with_extension("txt");
            if std::env::var_os("BLESS").is_some() {
                fs::write(&expected, format!("{said}\n")).unwrap();
            }
            let want = fs::read_to_string(&expected).unwrap_or_default();
            if want.trim_end() != said {
                wrong.push(format!("{name}: expected\n{want}\ngot\n{said}"));
            }
            assert_ne!(said, "accepted", "{name} has a fault");
            seen += 1;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        assert!(seen >= 20, "only {seen} fixtures");
    }

    #[test]
    fn the_example_is_accepted() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cluster.toml");
        let config = load(&path).unwrap();
        assert_eq!(config.machines.len(), 7);
        assert_eq!(config.servers().count(), 3);
    }
}
