//! What the kernel uses a disk for right now: mounts, swap, and whoever holds it or a partition of it (md, dm, LUKS).
//!
//! Read from `/proc` and `/sys` below a root, so that a folder can be a machine.

use std::fs;
use std::path::Path;

/// In words, such as "mounted as /"; empty when nothing uses the disk. A disk that cannot be looked up counts as in
/// use: not knowing is no permission.
pub fn in_use(root: &Path, name: &str) -> Vec<String> {
    let block = root.join("sys/block").join(name);
    let Some(parts) = parts(&block, name) else {
        return vec!["not listed by the kernel".into()];
    };
    let mut uses = Vec::new();
    if fs::read_to_string(block.join("ro")).is_ok_and(|ro| ro.trim() == "1") {
        uses.push("read-only".into());
    }
    for part in &parts {
        for holder in entries(&part.sysfs.join("holders")) {
            uses.push(format!("{} is held by {holder}", part.name));
        }
    }
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    uses.extend(mounted(&mounts, &parts));
    let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    uses.extend(swapped(&swaps, &parts));
    uses
}

/// The disk itself or one of its partitions.
struct Part {
    name: String,
    /// `major:minor`, which holds whatever path a mount was made by.
    number: String,
    sysfs: std::path::PathBuf,
}

fn parts(block: &Path, name: &str) -> Option<Vec<Part>> {
    let number = |path: &Path| fs::read_to_string(path.join("dev")).ok().map(|text| text.trim().to_owned());
    let mut parts = vec![Part { name: name.into(), number: number(block)?, sysfs: block.into() }];
    for entry in entries(block) {
        let path = block.join(&entry);
        if entry.starts_with(name)
            && path.join("partition").exists()
            && let Some(number) = number(&path)
        {
            parts.push(Part { name: entry, number, sysfs: path });
        }
    }
    Some(parts)
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// proc(5): fields 3 and 5 are number and place; behind ` - ` come file system and source. The source counts too:
/// Btrfs shows a number of its own.
fn mounted(mountinfo: &str, parts: &[Part]) -> Vec<String> {
    let mut uses = Vec::new();
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(number), Some(place)) = (fields.get(2), fields.get(4)) else { continue };
        let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1)).unwrap_or("");
        if let Some(part) = parts.iter().find(|part| part.number == *number || is_device(source, &part.name))
        {
            uses.push(format!("{} is mounted as {place}", part.name));
        }
    }
    uses
}

fn swapped(swaps: &str, parts: &[Part]) -> Vec<String> {
    let used = |part: &&Part| {
        swaps
            .lines()
            .any(|line| line.split_whitespace().next().is_some_and(|path| is_device(path, &part.name)))
    };
    parts.iter().filter(used).map(|part| format!("{} is used as swap", part.name)).collect()
}

fn is_device(path: &str, name: &str) -> bool {
    path.strip_prefix("/dev/") == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Part> {
        [("sda", "8:0"), ("sda1", "8:1"), ("sda2", "8:2")]
            .map(|(name, number)| Part { name: name.into(), number: number.into(), sysfs: "/none".into() })
            .into()
    }

    #[test]
    fn a_mount_is_found_by_number_and_by_source() {
        let info = "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                    23 1 0:44 / /data rw - btrfs /dev/sda1 rw\n\
                    24 1 8:16 / /other rw - ext4 /dev/sdb rw\n";
        assert_eq!(mounted(info, &parts()), ["sda2 is mounted as /", "sda1 is mounted as /data"]);
    }

    #[test]
    fn swap_is_found_and_a_longer_name_is_not() {
        let swaps =
            "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/dev/sda11 partition 1 0 -3\n";
        assert_eq!(swapped(swaps, &parts()), ["sda2 is used as swap"]);
    }

    #[test]
    fn garbage_lines_are_nothing() {
        assert!(mounted("\n  \nx - \n", &parts()).is_empty());
        assert!(swapped("\n", &parts()).is_empty());
    }

    #[test]
    fn an_unknown_disk_counts_as_in_use() {
        assert_eq!(in_use(Path::new("/nonexistent"), "sda"), ["not listed by the kernel"]);
    }
}
