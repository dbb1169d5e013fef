//! Kata's way onto the disk, killed with -9 at many moments: the next run heals it, the one after that changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use muster_agent::install::fetch::{FetchError, Source};
use muster_agent::node::fetch::Fetcher;
use muster_agent::node::kata::{files_hold, put_in_place};
use muster_agent::state::Root;
use muster_protocol::ids::Digest;
use muster_protocol::manifest::{Kata, KataRequire};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CHILD: &str = "MUSTER_TEST_KATA_ROOT";
const FILES: usize = 120;

/// The archive, part by part.
struct Shelf(Vec<u8>);

impl Source for Shelf {
    fn part(&mut self, _digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), FetchError> {
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(&self.0[offset..offset + into.len()]);
        Ok(())
    }

    fn whole(&mut self, digest: &Digest, _at_most: u64) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Status { digest: *digest, status: 404 })
    }
}

#[test]
fn killed_at_any_moment_it_is_healed_by_the_next_run() {
    if let Some(root) = std::env::var_os(CHILD) {
        run(&PathBuf::from(root));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut cut_short = 0;
    for moment in 0..24 {
        let root = dir.join(moment.to_string());
        let base = root.join("var/lib/muster/kata");
        fs::create_dir_all(&base).unwrap();
        fs::write(dir.join("archive"), archive(dir)).unwrap();
        fs::copy(dir.join("archive"), root.join("archive")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_at_any_moment_it_is_healed_by_the_next_run"])
            .env(CHILD, &root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The moment is a number of names that exist: from the archive's first byte to the last file and the link.
        let wanted = 1 + moment * (FILES + 6) / 23;
        while count(&base) < wanted && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !base.join("current").exists() {
            cut_short += 1;
        }
        assert!(!base.join("current").exists() || files_hold(&Root::new(&root)), "a link to something half");
        run(&root);
        assert!(files_hold(&Root::new(&root)), "{moment}");
        let before = count(&base);
        assert!(!run(&root), "{moment}: nothing is left to do");
        assert_eq!(count(&base), before);
        assert_eq!(fs::read_dir(&base).unwrap().count(), 2, "the version and the link, nothing else");
    }
    assert!(cut_short >= 12, "only {cut_short} kills came before the end");
}

/// Whether anything changed.
fn run(root: &Path) -> bool {
    let bytes = fs::read(root.join("archive")).unwrap();
    let kata = Kata {
        version: "4.1.0".into(),
        archive: Digest::of(&bytes),
        archive_bytes: bytes.len() as u64,
        require: KataRequire::Files,
        stand_in: None,
    };
    let mut shelf = Shelf(bytes);
    let mut fetcher = Fetcher { source: &mut shelf, progress: &mut |_, _| {} };
    put_in_place(&Root::new(root), &kata, "v1.36.3+k3s1", Some(&mut fetcher), false).unwrap().changed
}

fn archive(dir: &Path) -> Vec<u8> {
    let folder = dir.join("files/opt/kata/share");
    if !folder.exists() {
        fs::create_dir_all(&folder).unwrap();
        for n in 0..FILES {
            fs::write(folder.join(n.to_string()), format!("{n} ").repeat(2000)).unwrap();
        }
    }
    let tar = Command::new("tar").arg("-C").arg(dir.join("files")).args(["-c", "opt"]).output().unwrap();
    assert!(tar.status.success());
    ruzstd::encoding::compress_to_vec(tar.stdout.as_slice(), ruzstd::encoding::CompressionLevel::Fastest)
}

/// Names below a folder.
fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + count(&entry.path()),
        Ok(_) | Err(_) => 1,
    };
    entries.map(below).sum()
}
