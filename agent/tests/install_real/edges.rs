//! Block devices, firmware variables and file systems, each by itself.

use crate::install_support::CLUSTER;
use crate::tools::{Loop, losetup_works, tool};
use muster_agent::install::blockdev::BlockDevice;
use muster_agent::install::bootentry::Variables;
use muster_agent::install::busy::in_use;
use muster_agent::install::efivars::{Efivars, GLOBAL};
use muster_agent::install::plan::Sizes;
use muster_agent::install::survey::survey;
use muster_protocol::inventory::Contents;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use tempfile::tempdir;

#[test]
fn a_mounted_or_held_disk_cannot_even_be_opened() {
    if !losetup_works("a mounted disk") {
        return;
    }
    let folder = tempdir().unwrap();
    let file = folder.path().join("disk");
    File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let device = Loop::new(&file, 512).unwrap();
    tool("mke2fs", &["-q", "-t", "ext4", device.0.to_str().unwrap()]);
    let place = folder.path().join("mounted");
    fs::create_dir(&place).unwrap();
    tool("mount", &[device.0.to_str().unwrap(), place.to_str().unwrap()]);
    let uses = in_use(Path::new("/"), device.name());
    let opened = BlockDevice::exclusive(&device.0, 512).map(|_| ()).map_err(|error| error.kind());
    tool("umount", &[place.to_str().unwrap()]);
    assert_eq!(uses, [format!("{} is mounted as {}", device.name(), place.display())]);
    assert_eq!(opened, Err(io::ErrorKind::ResourceBusy));
    assert_eq!(in_use(Path::new("/"), device.name()), Vec::<String>::new());
    BlockDevice::exclusive(&device.0, 512).unwrap();
}

#[test]
fn an_immutable_variable_is_changed_and_deleted() {
    let folder = tempdir().unwrap();
    let vars = folder.path().join("sys/firmware/efi/efivars");
    fs::create_dir_all(&vars).unwrap();
    assert!(Efivars::at(folder.path(), GLOBAL).is_none(), "an empty folder is no efivarfs");
    let file = vars.join(format!("BootOrder-{GLOBAL}"));
    fs::write(&file, [7, 0, 0, 0, 1, 0]).unwrap();
    fs::write(vars.join("Other-00000000-0000-0000-0000-000000000000"), [7, 0, 0, 0]).unwrap();
    // As efivarfs makes its files; where the file system has no such flag, the rest is tested all the same.
    let immutable =
        Command::new("chattr").arg("+i").arg(&file).output().is_ok_and(|out| out.status.success());
    if !immutable {
        eprintln!("skipped: the immutable flag needs root and a file system that has it");
    }
    let mut variables = Efivars::at(folder.path(), GLOBAL).unwrap();
    assert_eq!(variables.names().unwrap(), ["BootOrder"]);
    assert_eq!(variables.read("BootOrder").unwrap().unwrap(), [1, 0]);
    variables.write("BootOrder", &[2, 0]).unwrap();
    variables.write("Boot0002", b"option").unwrap();
    assert_eq!(fs::read(&file).unwrap(), [7, 0, 0, 0, 2, 0]);
    assert_eq!(variables.read("Boot0002").unwrap().unwrap(), b"option");
    variables.delete("BootOrder").unwrap();
    variables.delete("BootOrder").unwrap();
    assert_eq!(variables.read("BootOrder").unwrap(), None);
}

/// What real tools leave on a disk is found, named, and not empty.
#[test]
fn what_real_tools_make_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("disk");
    let text = path.to_str().unwrap().to_owned();
    let surveyed = |make: &dyn Fn(&str)| -> Contents {
        File::create(&path).unwrap().set_len(256 << 20).unwrap();
        make(&text);
        let mut disk = BlockDevice::read_only(&path, 512).unwrap();
        survey(&mut disk, &[], CLUSTER, &Sizes::DESIGN).unwrap()
    };
    let blank = surveyed(&|_| ());
    assert!(blank.empty && blank.found.is_empty());
    type Make<'a> = &'a dyn Fn(&str);
    let cases: [(&str, Make<'_>); 4] = [
        ("ext file system", &|disk| drop(tool("mke2fs", &["-q", "-F", "-t", "ext4", disk]))),
        ("swap", &|disk| drop(tool("mkswap", &[disk]))),
        ("FAT", &|disk| drop(tool("mkfs.fat", &["-F", "32", disk]))),
        ("GPT with 2 partitions", &|disk| {
            drop(tool("sgdisk", &["-n", "1:0:+10M", "-n", "2:0:+10M", disk]));
        }),
    ];
    for (name, make) in cases {
        let contents = surveyed(make);
        assert!(!contents.empty, "{name}");
        assert!(contents.found.iter().any(|found| found == name), "{name}: {:?}", contents.found);
        assert_ne!(contents.evidence, blank.evidence);
    }
}
