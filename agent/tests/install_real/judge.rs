//! Everything that other people's programs can say about a disk of ours.

use crate::install_support::{CLUSTER, World};
use crate::tools::tool;
use crate::whole::DISK_BYTES;
use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::disk::Disk;
use muster_agent::install::marker::read_marker;
use muster_agent::install::plan::{Plan, Sizes, plan};
use muster_protocol::ids::Digest;
use muster_protocol::marker::MarkerState;
use std::fs::{self, File};
use std::path::Path;

pub(crate) fn judge(world: &World, path: &Path, block_bytes: u32, folder: &Path) {
    let mut disk = BlockDevice::read_only(path, block_bytes).unwrap();
    let marker = read_marker(&mut disk).unwrap().unwrap();
    assert_eq!(marker.state, MarkerState::Installed);
    let slot = marker.slots[0].as_ref().unwrap();
    assert_eq!(slot.kernel_release, "6.12.48+deb13-amd64");
    let plan = plan(DISK_BYTES, block_bytes, &Sizes::DESIGN, CLUSTER, world.order.number).unwrap();
    let text = path.to_str().unwrap();

    tool("sfdisk", &["--verify", text]);
    let said = tool("sgdisk", &["-v", text]);
    assert!(said.contains("No problems found"), "{said}");
    let listed = tool("sfdisk", &["--dump", text]);
    for part in plan.parts() {
        assert!(
            listed.contains(&part.guid.to_string().to_uppercase()) && listed.contains(part.name),
            "{listed}"
        );
    }

    let mut root = vec![0; world.image.len()];
    disk.read_at(plan.slots[0].bytes.start, &mut root).unwrap();
    assert!(root == world.image);
    judge_esp(world, &mut disk, &plan, folder, &slot.uki_name);
    judge_data(text, &plan);
    // The secret is on the data partition and nowhere else.
    let mut chunk = vec![0; 1 << 20];
    let zeros = chunk.clone();
    for at in (0..plan.slots[0].bytes.start + (16 << 20)).step_by(chunk.len()) {
        disk.read_at(at, &mut chunk).unwrap();
        assert!(
            chunk == zeros || !chunk.windows(32).any(|bytes| bytes == world.key.seed()),
            "the key lies at {at}"
        );
    }
}

fn judge_esp(world: &World, disk: &mut BlockDevice, plan: &Plan, folder: &Path, uki_name: &str) {
    // fsck.fat knows no offsets.
    let esp = folder.join("esp");
    let file = File::create(&esp).unwrap();
    file.set_len(plan.esp.bytes.end - plan.esp.bytes.start).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for at in (plan.esp.bytes.clone()).step_by(chunk.len()) {
        disk.read_at(at, &mut chunk).unwrap();
        if chunk.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, &chunk, at - plan.esp.bytes.start).unwrap();
        }
    }
    let esp = esp.to_str().unwrap();
    let said = tool("fsck.fat", &["-n", "-v", esp]);
    assert!(said.contains("FATs, 32 bit entries") && !said.to_lowercase().contains("differences"), "{said}");
    let out = folder.join("out");
    for (from, digest) in [
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), world.order.loader),
        ("EFI/systemd/systemd-bootx64.efi".to_owned(), world.order.loader),
        (format!("EFI/Linux/{uki_name}.efi"), world.order.uki),
    ] {
        tool("mcopy", &["-n", "-o", "-i", esp, &format!("::{from}"), out.to_str().unwrap()]);
        assert_eq!(Digest::of(&fs::read(&out).unwrap()), digest, "{from}");
    }
    let listed = tool("mdir", &["-/", "-b", "-i", esp, "::"]);
    assert!(listed.contains("::/loader/loader.conf"), "{listed}");
}

fn judge_data(disk: &str, plan: &Plan) {
    let at = format!("{disk}?offset={}", plan.data.bytes.start);
    tool("e2fsck", &["-f", "-n", &at]);
    let key = tool("debugfs", &["-R", "stat /lib/muster/node.key", &at]);
    assert!(key.contains("Mode:  0600") && key.contains("User:     0") && key.contains("Size: 32"), "{key}");
    let id = tool("debugfs", &["-R", "cat /lib/muster/machine-id", &at]);
    assert!(id.lines().any(|line| line.len() == 32), "{id}");
    let keys = tool("debugfs", &["-R", "cat /lib/muster/ssh/authorized_keys", &at]);
    assert!(keys.contains("ssh-ed25519 AAAA operator"), "{keys}");
}
