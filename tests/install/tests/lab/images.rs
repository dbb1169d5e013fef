//! Small images that are real where an install looks: an ext4 root, a UKI composed from parts, a loader.

use super::home::Home;
use muster_protocol::ids::{Arch, Digest};
use netns::must;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT_BYTES: u64 = 16 << 20;

/// Registers them; returns the root image, as it must lie in the slot.
pub(crate) fn register(home: &Home, folder: &Path) -> Vec<u8> {
    let release = must(Command::new("uname").arg("-r")).trim().to_owned();
    let arch: Arch = std::env::consts::ARCH.parse().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    put("root/usr/lib/noise", &noise(9 << 20, 1));
    put("root/etc/os-release", b"ID=muster-lab\n");
    let image = folder.join("root.ext4");
    fs::File::create(&image).unwrap().set_len(ROOT_BYTES).unwrap();
    must(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(folder.join("root")).arg(&image));

    let mut files = Vec::new();
    for (name, bytes) in [
        ("linux", noise(2_000_000, 2)),
        ("initrd.base.zst", noise(1_000_001, 3)),
        ("stub.efi", stub()),
        ("systemd-boot.efi", noise(120_000, 4)),
    ] {
        put(&format!("netboot/{name}"), &bytes);
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        files.push(format!(r#""{name}": {{"size": {size}, "sha256": "{digest}"}}"#));
    }
    let files = files.join(",");
    let manifest = format!(
        r#"{{"arch": "{arch}", "kernel_release": "{release}", "packages": {{}}, "files": {{{files}}}}}"#
    );
    let manifest = put("netboot/manifest.json", manifest.as_bytes());
    let netboot = Path::new(&manifest).parent().unwrap().to_str().unwrap();
    // Any program of this architecture will do: nobody starts it.
    let agent = put("agent", &elf(arch));
    let k3s = put("k3s/k3s", b"#!/bin/sh\n");
    let k3s = Path::new(&k3s).parent().unwrap().to_str().unwrap();
    let image_path = image.to_str().unwrap();
    home.build(&["--netboot", netboot, "--agent", &agent, "--k3s", k3s]);
    let (arch, version) = (arch.to_string(), ["--image-version", "lab"]);
    let node = ["--arch", &arch, "--node-image", image_path, "--kernel-release", &release];
    home.build(&[&node[..], &version[..]].concat());
    fs::read(image).unwrap()
}

fn elf(arch: Arch) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..4].copy_from_slice(b"\x7fELF");
    head[18] = match arch {
        Arch::X86_64 => 62,
        Arch::Aarch64 => 183,
    };
    head
}

/// A PE32+ program with one section of its own and room for eight more headers: what a UKI is composed on.
fn stub() -> Vec<u8> {
    const OPTIONAL: usize = 0x58;
    const HEADERS: u32 = 0x400;
    let mut file = vec![0; HEADERS as usize + 0x200];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &1_u16.to_le_bytes());
    put(0x54, &240_u16.to_le_bytes());
    put(OPTIONAL, &0x20b_u16.to_le_bytes());
    put(OPTIONAL + 32, &0x1000_u32.to_le_bytes());
    put(OPTIONAL + 36, &0x200_u32.to_le_bytes());
    put(OPTIONAL + 56, &0x2000_u32.to_le_bytes());
    put(OPTIONAL + 60, &HEADERS.to_le_bytes());
    let section = OPTIONAL + 240;
    put(section, b".text");
    for (at, value) in [(8, 0x1f0), (12, 0x1000), (16, 0x200), (20, HEADERS)] {
        put(section + at, &value.to_le_bytes());
    }
    file
}

/// Bytes in which no block is like another (xorshift).
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
