//! Other people's programs: run when they are there, and believed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device with a block size of choice, detached afterwards.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn new(file: &Path, block_bytes: u32) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block_bytes.to_string()])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        output.status.success().then(|| Self(path.into()))
    }

    pub(crate) fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(detached.unwrap().success());
    }
}

pub(crate) fn losetup_works(why: &str) -> bool {
    let works =
        nix_root() && Command::new("losetup").arg("--find").output().is_ok_and(|out| out.status.success());
    if !works {
        eprintln!("skipped: {why} needs root and loop devices");
    }
    works
}

fn nix_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a program that must succeed; its output.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}
