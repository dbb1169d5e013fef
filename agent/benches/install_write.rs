//! `cargo bench -p muster-agent --bench install_write`: the install's write beside the shell pipeline that does the
//! same, on the same file, in turns: `zstd -dc image.zst | tee >(sha256sum) | dd of=disk oflag=direct`.
//!
//! Budget: at least 0.9 of the pipeline's speed, on a drive and where the processor is the limit: on a disk that is memory
//! (`/dev/shm`). `MUSTER_BENCH_IMAGE` names a raw image; without it, this machine's shared libraries serve as one.
//! `MUSTER_BENCH_DIR` is where the drive's file goes (default: the folder for temporary files). Ends with 1 when the budget is
//! missed.

#![allow(clippy::unwrap_used, reason = "a bench that cannot run ends")]

use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::fetch::{FetchError, Source};
use muster_agent::install::machine::workers;
use muster_agent::install::write::Slot;
use muster_protocol::ids::{Arch, Digest};
use muster_protocol::image::{FRAME_BYTES, Frame, ImageIndex, Stored};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const LIMIT: usize = 512 << 20;
const ROUNDS: usize = 3;
const BUDGET: f64 = 0.9;

fn main() -> ExitCode {
    let drive = std::env::var("MUSTER_BENCH_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    let raw = image();
    let (index, blob) = pack(&raw);
    let packed = tempfile::NamedTempFile::new().unwrap();
    fs::write(packed.path(), zstd(&raw)).unwrap();
    println!("image: {} MiB raw, {} MiB in frames", raw.len() >> 20, blob.len() >> 20);
    let mut met = true;
    for (what, place) in [("a drive", drive.as_path()), ("a disk in memory", Path::new("/dev/shm"))] {
        let folder = tempfile::tempdir_in(place).unwrap();
        let ratio = compare(what, folder.path(), &raw, &index, &blob, packed.path());
        let verdict = if ratio >= BUDGET { "met" } else { "MISSED" };
        met &= ratio >= BUDGET;
        println!(
            "{what}, best of {ROUNDS}: write at {ratio:.2} of the pipeline's speed   budget {BUDGET}   {verdict}"
        );
    }
    ExitCode::from(u8::from(!met))
}

/// How many times as fast as the pipeline the write is, each at its best.
fn compare(what: &str, folder: &Path, raw: &[u8], index: &ImageIndex, blob: &[u8], packed: &Path) -> f64 {
    let mut best = [f64::MAX; 2];
    for round in 0..ROUNDS {
        let disk = fresh(folder, raw.len());
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let script = "set -o pipefail; zstd -dcq \"$0\" | tee >(sha256sum >/dev/null) | dd of=\"$1\" bs=4M iflag=fullblock oflag=direct conv=notrunc,fsync status=none";
        let status = Command::new("bash").args(["-c", script]).args([packed, &disk]).status().unwrap();
        assert!(status.success());
        let pipeline = started.elapsed().as_secs_f64();
        let pipeline_cpu = cpu_seconds() - cpu;

        let disk = fresh(folder, raw.len());
        let slot = Slot { index, start: 0, frame: FRAME_BYTES, workers: workers() };
        let mut device = BlockDevice::exclusive(&disk, 512).unwrap();
        let (started, cpu) = (Instant::now(), cpu_seconds());
        slot.write(&mut device, &mut Memory(blob), 0, false, &mut |_| ()).unwrap();
        let write = started.elapsed().as_secs_f64();
        let write_cpu = cpu_seconds() - cpu;
        let started = Instant::now();
        assert_eq!(slot.verify(&mut device, &mut |_| ()).unwrap(), Vec::<usize>::new());
        let verify = started.elapsed().as_secs_f64();
        let one = Slot { workers: 1, ..slot };
        let started = Instant::now();
        one.write(&mut device, &mut Memory(blob), 0, false, &mut |_| ()).unwrap();
        let single = started.elapsed().as_secs_f64();

        let speed = |seconds: f64| raw.len() as f64 / 1e6 / seconds;
        println!(
            "{what}, round {round}: pipeline {:.0} MB/s ({pipeline_cpu:.2} CPU s), write {:.0} MB/s ({write_cpu:.2} CPU s, {} \
             workers), with one {:.0} MB/s, verify {:.0} MB/s",
            speed(pipeline),
            speed(write),
            workers(),
            speed(single),
            speed(verify)
        );
        for (best, now) in best.iter_mut().zip([pipeline, write]) {
            *best = best.min(now);
        }
    }
    best[0] / best[1]
}

/// User and system time of this process and of its ended children; steadier than the clock on a busy machine.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // proc(5): utime, stime, cutime, cstime are fields 14 to 17, in ticks of 10 ms; the name may hold spaces.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(4);
    fields.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn fresh(folder: &Path, length: usize) -> PathBuf {
    let disk = folder.join("disk");
    let file = File::create(&disk).unwrap();
    file.set_len(length as u64).unwrap();
    file.sync_all().unwrap();
    disk
}

fn image() -> Vec<u8> {
    if let Ok(path) = std::env::var("MUSTER_BENCH_IMAGE") {
        return fs::read(path).unwrap();
    }
    let mut raw = Vec::new();
    let mut folders = vec![PathBuf::from("/usr/lib")];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && raw.len() < LIMIT {
                raw.extend_from_slice(&fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    raw.truncate(raw.len().min(LIMIT) / 4096 * 4096);
    raw
}

fn pack(raw: &[u8]) -> (ImageIndex, Vec<u8>) {
    let mut blob = Vec::new();
    let mut frames = Vec::new();
    for piece in raw.chunks(FRAME_BYTES as usize) {
        let packed = zstd(piece);
        frames.push(Frame {
            raw: Digest::of(piece),
            stored: Stored::Zstd { offset: blob.len() as u64, bytes: packed.len() as u32 },
        });
        blob.extend_from_slice(&packed);
    }
    let index = ImageIndex {
        arch: Arch::X86_64,
        version: "bench".into(),
        kernel_release: "0".into(),
        raw_bytes: raw.len() as u64,
        blob: Digest([0; 32]),
        blob_bytes: blob.len() as u64,
        frames,
    };
    (index, blob)
}

fn zstd(raw: &[u8]) -> Vec<u8> {
    let mut zstd = Command::new("zstd")
        .args(["-q", "-9", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = zstd.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(raw).unwrap());
        zstd.wait_with_output().unwrap().stdout
    })
}

/// Frames from memory: the network is no part of either side.
struct Memory<'a>(&'a [u8]);

impl Source for Memory<'_> {
    fn part(&mut self, _digest: &Digest, offset: u64, into: &mut [u8]) -> Result<(), FetchError> {
        into.copy_from_slice(&self.0[offset as usize..offset as usize + into.len()]);
        Ok(())
    }

    fn whole(&mut self, digest: &Digest, _at_most: u64) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Status { digest: *digest, status: 404 })
    }
}
