//! Secrets planted where they may and may not be: in files, behind holes, on real ext4 partitions.

use super::*;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("provisioner/keys")).unwrap();
    std::fs::write(folder.path().join("provisioner/keys/root.key"), format!("{}\n", "a1b2c3d4".repeat(8)))
        .unwrap();
    folder
}

#[test]
fn a_key_in_its_own_file_is_at_home_and_a_copy_of_it_is_found() {
    let folder = folder();
    let folder = folder.path();
    let clean = search(folder, &[], &|_| false).unwrap();
    assert_eq!((clean.secrets, clean.allowed, clean.found.len()), (1, 1, 0));
    let raw = unhex("a1b2c3d4".repeat(8).as_bytes()).unwrap();
    std::fs::write(folder.join("provisioner/store.redb"), [vec![0; 77], raw].concat()).unwrap();
    std::fs::write(folder.join("serve.log"), format!("key={}", "A1B2C3D4".repeat(8))).unwrap();
    let found = search(folder, &[], &|_| false).unwrap().found;
    assert_eq!(
        found,
        [
            "root key stands as it is in provisioner/store.redb at byte 77",
            "root key stands upper hex in serve.log at byte 4"
        ]
    );
}

#[test]
fn a_hit_behind_a_hole_has_its_place_in_the_whole_file() {
    let folder = folder();
    let folder = folder.path();
    let file = File::create(folder.join("a.disk9")).unwrap();
    let raw = unhex("a1b2c3d4".repeat(8).as_bytes()).unwrap();
    file.write_all_at(&raw, (3 << 30) + 5).unwrap();
    file.set_len(8 << 30).unwrap();
    let canary = search(folder, &[], &|_| false).unwrap();
    assert_eq!(canary.found, ["root key stands as it is in a.disk9 at byte 3221225477"]);
    assert!(canary.bytes < 1 << 20);
}

#[test]
fn a_text_of_digits_is_also_what_it_stands_for() {
    assert_eq!(both(b"00ff".to_vec()), [b"00ff".to_vec(), vec![0, 255]]);
    assert_eq!(both(b"xyz".to_vec()), [b"xyz".to_vec()]);
}

/// A disk with one ext4 partition `muster-data` that holds these files.
fn disk(folder: &Path, name: &str, files: &[(&str, &[u8])]) {
    const START: u64 = 1 << 20;
    const BLOCKS: u64 = 8192;
    let tree = folder.join(format!("{name}.tree"));
    for (path, bytes) in files {
        let path = tree.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut table = vec![0; 34 * 512];
    table[512..520].copy_from_slice(b"EFI PART");
    let entry = &mut table[1024..1152];
    entry[32..40].copy_from_slice(&(START / 512).to_le_bytes());
    entry[40..48].copy_from_slice(&((START + BLOCKS * 4096) / 512 - 1).to_le_bytes());
    for (at, unit) in "muster-data".encode_utf16().enumerate() {
        entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
    }
    let file = folder.join(format!("{name}.disk0"));
    let open = File::create(&file).unwrap();
    open.write_all_at(&table, 0).unwrap();
    open.set_len(START + BLOCKS * 4096 + (1 << 20)).unwrap();
    let mut make = std::process::Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-b", "4096", "-d"]).arg(&tree);
    make.args(["-E", &format!("offset={START}")]).arg(&file).arg(BLOCKS.to_string());
    assert!(make.status().unwrap().success());
    std::fs::remove_dir_all(tree).unwrap();
}

fn machine(name: &str, role: &str) -> Declared {
    let (name, role) = (name.into(), role.into());
    Declared { name, class: "mini-pc".into(), role, mac: vec![], serial: None, sandbox: None }
}

const PASSWORD: &str = "3f825f97ce8290beeb49776f9c248455d580e63bb430976ec80a9c2b24d67c2a";

#[test]
fn a_token_is_at_home_on_a_server_and_found_on_a_worker_by_path_or_block() {
    let folder = folder();
    let folder = folder.path();
    let full = format!("K10{}::server:{PASSWORD}\n", "ab".repeat(32));
    let agent = format!("K10{}::node:{}\n", "ab".repeat(32), "77889900aabbccdd".repeat(4));
    let tokens: [(&str, &[u8]); 3] =
        [(SERVER_TOKEN, full.as_bytes()), (AGENT_TOKEN, agent.as_bytes()), (NODE_KEY, &[7; 32])];
    disk(folder, "s", &tokens);
    disk(folder, "w", &[(NODE_KEY, &[8; 32]), ("/lib/leak", full.as_bytes())]);
    let machines = [machine("s", "server"), machine("w", "worker")];
    let canary = search(folder, &machines, &|_| true).unwrap();
    // root key, two node keys, two tokens; each in one place, but for the leak
    assert_eq!((canary.secrets, canary.allowed, canary.found.len()), (5, 5, 1), "{:?}", canary.found);
    let found = &canary.found[0];
    assert!(found.starts_with("server token stands as it is in w.disk0"), "{found}");
    assert!(found.ends_with("(/lib/leak)"), "{found}");

    // what a deleted file left behind: a block that nobody has
    let disk = File::options().write(true).open(folder.join("w.disk0")).unwrap();
    disk.write_all_at(&unhex(PASSWORD.as_bytes()).unwrap(), (1 << 20) + 8000 * 4096 + 9).unwrap();
    let found = search(folder, &machines, &|_| true).unwrap().found;
    assert!(found[1].ends_with("(block 8000 of the data partition, which no file has now)"), "{found:?}");
}

#[test]
fn a_server_s_token_file_that_was_written_anew_is_at_home_in_its_old_block_alone() {
    let folder = folder();
    let folder = folder.path();
    let full = format!("K10{}::server:{PASSWORD}\n", "ab".repeat(32));
    disk(folder, "s", &[(SERVER_TOKEN, full.as_bytes())]);
    disk(folder, "w", &[(NODE_KEY, &[8; 32])]);
    let machines = [machine("s", "server"), machine("w", "worker")];
    let put = |name: &str, block: u64, text: &str| {
        let disk = File::options().write(true).open(folder.join(format!("{name}.disk0"))).unwrap();
        disk.write_all_at(text.as_bytes(), (1 << 20) + block * 4096).unwrap();
    };
    put("s", 8000, &full);
    let canary = search(folder, &machines, &|_| false).unwrap();
    assert_eq!((canary.allowed, canary.found.len()), (4, 0), "{:?}", canary.found);

    // in a log that was deleted; and the same block on a machine that has no right to it
    put("s", 8001, &format!("level=info token={full}"));
    put("s", 8002, &format!("{full}level=info"));
    put("w", 8000, &full);
    let found = search(folder, &machines, &|_| false).unwrap().found;
    let places: Vec<_> = found.iter().map(|found| found.split("(block ").last().unwrap()).collect();
    let wanted =
        ["8001", "8002", "8000"].map(|n| format!("{n} of the data partition, which no file has now)"));
    assert_eq!(places, wanted, "{found:?}");
}

#[test]
fn a_ready_machine_whose_secrets_cannot_be_read_proves_nothing() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "s", &[("/lib/x", b"nothing here")]);
    let found = search(folder, &[machine("s", "server")], &|_| true).unwrap().found;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|found| found.ends_with("so its search proves nothing")), "{found:?}");
}
