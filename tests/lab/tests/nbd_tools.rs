//! The disk against clients that are not ours: `qemu-io`, `qemu-img`, and libnbd's `nbdinfo` where it is installed.

#![allow(clippy::unwrap_used, reason = "a test may unwrap, its helpers too")]

mod support;

use muster_lab::nbd::{CACHE_LIMIT, Disk};
use std::process::Command;
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;

fn disk(test: &str) -> (TempDir, Disk) {
    // The socket's path must be short, the disk may be long.
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("socket"), support::folder(test).join("disk"));
    let disk = Disk::start(&socket, &file, SIZE, CACHE_LIMIT).unwrap();
    (folder, disk)
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn qemu_io(disk: &Disk, commands: &[&str]) -> String {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", "-t", "writeback", "-d", "unmap"]);
    for text in commands {
        command.args(["-c", text]);
    }
    command.arg(format!("nbd+unix:///?socket={}", disk.socket().display()));
    let text = output(command);
    assert!(!text.contains("failed"), "{text}");
    text
}

#[test]
fn qemu_reads_what_it_wrote_and_zeroed_and_trimmed() {
    if !support::can("qemu_reads_what_it_wrote_and_zeroed_and_trimmed", false, &["qemu-io"]) {
        return;
    }
    let (_folder, disk) = disk("rw");
    qemu_io(
        &disk,
        &[
            "write -P 0x5a 1M 8M",
            "write -z 2M 1M",
            "discard 4M 64k",
            "write -f -P 0x11 512 512",
            "read -P 0x5a 1M 1M",
            "read -P 0 2M 1M",
            "read -P 0x5a 3M 1M",
            "read -P 0 4M 64k",
            "read -P 0x11 512 512",
            "read -P 0 0 512",
        ],
    );
    let asked = disk.asked();
    assert!(
        asked.writes >= 2 && asked.fua_writes >= 1 && asked.write_zeroes >= 1 && asked.trims >= 1,
        "{asked:?}"
    );
    // QEMU flushes when it leaves
    assert!(asked.flushes >= 1 && disk.unflushed() == 0, "{asked:?}");
}

#[test]
fn an_image_goes_in_and_out_unchanged() {
    if !support::can("an_image_goes_in_and_out_unchanged", false, &["qemu-img"]) {
        return;
    }
    let (folder, disk) = disk("image");
    let image: Vec<u8> =
        (0..SIZE as usize).map(|n| if n % 3_000_000 < 1_000_000 { 0 } else { (n / 512) as u8 }).collect();
    std::fs::write(folder.path().join("in"), &image).unwrap();
    let url = format!("nbd+unix:///?socket={}", disk.socket().display());
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(folder.path().join("in")).arg(&url);
    output(convert);
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(folder.path().join("in")).arg(&url);
    output(compare);
}

#[test]
fn a_killed_qemu_loses_only_what_it_had_not_flushed() {
    if !support::can("a_killed_qemu_loses_only_what_it_had_not_flushed", false, &["qemu-io"]) {
        return;
    }
    let (_folder, disk) = disk("cut");
    let mut flushed_kept = 0;
    let mut unflushed_lost = 0;
    for seed in 0..8 {
        // `abort` ends qemu-io without a goodbye and without its last flush
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-t", "writeback"]);
        let flushed = format!("write -P {} 0 1M", seed + 1);
        let unflushed = format!("write -P {} 1M 1M", seed + 101);
        for text in [&*flushed, "flush", &*unflushed, "abort"] {
            command.args(["-c", text]);
        }
        command.arg(format!("nbd+unix:///?socket={}", disk.socket().display()));
        let _ = command.output().unwrap();
        assert_eq!(disk.unflushed(), 1 << 20);
        let cut = disk.cut(seed).unwrap();
        assert_eq!(cut.unflushed, 1);
        let mut sectors = vec![0; 2 << 20];
        disk.read(0, &mut sectors).unwrap();
        flushed_kept += usize::from(sectors[..1 << 20].iter().all(|&byte| byte == seed as u8 + 1));
        unflushed_lost += usize::from(sectors[1 << 20..].iter().any(|&byte| byte != seed as u8 + 101));
    }
    assert_eq!(flushed_kept, 8);
    assert!(unflushed_lost >= 3, "lost {unflushed_lost} of 8");
}

#[test]
fn nbdinfo_likes_the_export() {
    if !support::can("nbdinfo_likes_the_export", false, &["nbdinfo"]) {
        return;
    }
    let (_folder, disk) = disk("info");
    let url = format!("nbd+unix:///?socket={}", disk.socket().display());
    let mut info = Command::new("nbdinfo");
    info.arg(&url);
    let text = output(info);
    for word in
        ["export-size: 67108864", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    let mut list = Command::new("nbdinfo");
    list.args(["--list", &url]);
    output(list);
}
