//! `config.yaml.d`: what k3s reads after `config.yaml`, so that one line there could undo the gate's decision.
//!
//! Other keys in such files are a person's business; a key that decides about membership is a refusal, wherever it stands
//! in the file. The text is searched and not parsed: YAML has more ways to write a key than we want to know.

use super::config::CONFIG;
use crate::state::Root;
use muster_protocol::k3s_keys::{ALL, Hold};
use std::fs;
use std::path::{Path, PathBuf};

/// The first such file and the key in it.
pub(super) fn decisive(root: &Root) -> Option<(PathBuf, &'static str)> {
    let entries = fs::read_dir(root.path(&format!("{CONFIG}.d"))).ok()?;
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_read(path)).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let key = key_in(&String::from_utf8_lossy(&fs::read(&path).ok()?))?;
        Some((path, key))
    })
}

/// As k3s chooses: `.yaml` and `.yml`, in any case (k3s: pkg/configfilearg/parser.go).
fn is_read(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"))
}

fn key_in(text: &str) -> Option<&'static str> {
    let text: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .fold(String::with_capacity(text.len()), |text, line| text + line + "\n");
    let mut decisive = ALL.iter().filter(|reserved| reserved.hold == Hold::Gate).map(|reserved| reserved.key);
    decisive.find(|key| text.match_indices(key).any(|(at, _)| is_key(&text, at, key)))
}

/// Whether a whole word begins here, and a colon follows it: `server:`, `"server" :`, `server+:`, `{server: x}`.
fn is_key(text: &str, at: usize, key: &str) -> bool {
    let part_of_a_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.' | ':');
    let begins = !text[..at].ends_with(part_of_a_word);
    let after = text[at + key.len()..].trim_start_matches(['+', '"', '\'']).trim_start_matches([' ', '\t']);
    begins && after.starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::scratch;

    #[test]
    fn a_key_that_decides_is_found_however_it_is_written() {
        for (text, key) in [
            ("cluster-init: true\n", "cluster-init"),
            ("debug: true\n\"cluster-init\" : true", "cluster-init"),
            ("{debug: true, 'server': https://10.0.0.1:6443}", "server"),
            ("server+: https://10.0.0.1:6443", "server"),
            ("s: https://10.0.0.1:6443", "s"),
            ("---\n  data-dir:\n    /x\n", "data-dir"),
        ] {
            assert_eq!(key_in(text), Some(key), "{text}");
        }
    }

    #[test]
    fn other_keys_and_mere_mentions_are_let_through() {
        for text in [
            "",
            "# cluster-init: true\n",
            "kubelet-arg:\n  - \"v=2\"\nnode-label: [\"example.org/server=yes\"]\n",
            "kube-apiserver-arg: [\"server-side-apply=true\"]\n",
            "tls-san: server\n",
            "lb-server-port: 7444\netcd-s3: true\n",
        ] {
            assert_eq!(key_in(text), None, "{text}");
        }
    }

    #[test]
    fn only_files_that_k3s_reads_are_looked_at() {
        let root = scratch();
        assert_eq!(decisive(&root), None);
        root.write(&format!("{CONFIG}.d/10-x.txt"), b"cluster-init: true", 0o600).unwrap();
        assert_eq!(decisive(&root), None);
        root.write(&format!("{CONFIG}.d/20-x.YAML"), b"cluster-init: true", 0o600).unwrap();
        let (path, key) = decisive(&root).unwrap();
        assert!(path.ends_with("20-x.YAML") && key == "cluster-init");
    }
}
