//! What `--version` says, and the numbers that the stand-in scales.

use k3s_model::numbers::Numbers;
use std::path::Path;

/// The release whose behaviour was recorded.
const RELEASE: &str = "v1.36.3+k3s1";

pub const NUMBERS: Numbers = Numbers::SCALED;

/// A file `standin-version` beside the binary names another release, so that an upgrade has something to go to.
pub fn release(exe_dir: Option<&Path>) -> String {
    let beside = exe_dir.and_then(|dir| std::fs::read_to_string(dir.join("standin-version")).ok());
    let named = beside.map(|v| v.trim().to_owned()).filter(|v| v.starts_with('v') && v.len() < 64);
    named.unwrap_or_else(|| RELEASE.to_owned())
}

pub fn exe_dir() -> Option<std::path::PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

pub fn text(release: &str, etcd: &str) -> String {
    let real = Numbers::REAL;
    let scaled = NUMBERS;
    format!(
        "k3s version {release} (stand-in)\n\
         stand-in for k3s, not Kubernetes: no pods, no kubelet, no containerd; etcd is real: {etcd}\n\
         scaled: promotion tick {} s (real {} s), eviction of a stalled learner {} s (real {} s); all else in real time",
        scaled.promotion_tick / 1000,
        real.promotion_tick / 1000,
        scaled.eviction / 1000,
        real.eviction / 1000,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_says_what_it_is_and_what_it_scales() {
        let text = text(RELEASE, "3.5.16");
        assert!(text.starts_with("k3s version v1.36.3+k3s1 (stand-in)\n"));
        assert!(text.contains("promotion tick 3 s (real 15 s)") && text.contains("60 s (real 300 s)"));
    }
}
