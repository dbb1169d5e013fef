//! The magic bytes by which file systems, volume managers and RAIDs are told: words for a person, never a permission.
//!
//! A disk is empty when its bytes are zero, not when nothing here matches; this table only names what was found.

/// How much of the start of a disk or partition [`found`] wants to see: ZFS's first label ends there.
pub(crate) const HEAD: usize = 256 << 10;
/// How much of its end: md's oldest superblock lies up to 128 KiB before it.
pub(crate) const TAIL: usize = 128 << 10;

struct Magic {
    name: &'static str,
    at: usize,
    bytes: &'static [u8],
}

/// As in each format's own documentation and in util-linux's libblkid.
const AT_START: &[Magic] = &[
    Magic { name: "LUKS", at: 0, bytes: b"LUKS\xba\xbe" },
    Magic { name: "BitLocker", at: 3, bytes: b"-FVE-FS-" },
    Magic { name: "LVM physical volume", at: 0, bytes: b"LABELONE" },
    Magic { name: "LVM physical volume", at: 512, bytes: b"LABELONE" },
    Magic { name: "LVM physical volume", at: 1024, bytes: b"LABELONE" },
    Magic { name: "LVM physical volume", at: 1536, bytes: b"LABELONE" },
    Magic { name: "md RAID member", at: 0, bytes: b"\xfc\x4e\x2b\xa9" },
    Magic { name: "md RAID member", at: 4096, bytes: b"\xfc\x4e\x2b\xa9" },
    Magic { name: "bcache", at: 0x1018, bytes: b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca" },
    Magic { name: "Ceph OSD", at: 0, bytes: b"bluestore block device" },
    Magic { name: "ext file system", at: 0x438, bytes: b"\x53\xef" },
    Magic { name: "XFS", at: 0, bytes: b"XFSB" },
    Magic { name: "Btrfs", at: 0x1_0040, bytes: b"_BHRfS_M" },
    Magic { name: "F2FS", at: 0x400, bytes: b"\x10\x20\xf5\xf2" },
    Magic { name: "NTFS", at: 3, bytes: b"NTFS    " },
    Magic { name: "exFAT", at: 3, bytes: b"EXFAT   " },
    Magic { name: "FAT", at: 82, bytes: b"FAT32   " },
    Magic { name: "FAT", at: 54, bytes: b"FAT1" },
    Magic { name: "APFS", at: 32, bytes: b"NXSB" },
    Magic { name: "SquashFS", at: 0, bytes: b"hsqs" },
    Magic { name: "ISO 9660", at: 0x8001, bytes: b"CD001" },
    Magic { name: "swap", at: 4086, bytes: b"SWAPSPACE2" },
    Magic { name: "hibernated system", at: 4086, bytes: b"S1SUSPEND" },
    Magic { name: "swap", at: 0x1_0000 - 10, bytes: b"SWAPSPACE2" },
];

/// Uberblock magic, in the byte order of the machine that wrote it.
const ZFS: [&[u8]; 2] = [b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"];

/// Names of what the start and the end of a disk or partition look like. `head` are its first bytes (up to [`HEAD`]),
/// `tail` its last (up to [`TAIL`]), `size` its whole length.
pub fn found(head: &[u8], tail: &[u8], size: u64) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut note = |name| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for magic in AT_START {
        if holds(head, magic.at, magic.bytes) {
            note(magic.name);
        }
    }
    // 128 uberblocks of 1 KiB in the second half of a label of 256 KiB.
    let uberblocks = head.get(128 << 10..).unwrap_or(&[]);
    if uberblocks.chunks(1024).any(|block| ZFS.iter().any(|magic| block.starts_with(magic))) {
        note("ZFS member");
    }
    if at_end(tail, size).into_iter().flatten().any(|at| holds(tail, at, b"\xfc\x4e\x2b\xa9")) {
        note("md RAID member");
    }
    if tail.len() >= 1024 && holds(tail, tail.len() - 1024, b"Intel Raid ISM Cfg Sig. ") {
        note("Intel RAID member");
    }
    if tail.len() >= 512 && holds(tail, tail.len() - 512, b"\xde\x11\xde\x11") {
        note("DDF RAID member");
    }
    names
}

/// Where md's superblocks 0.90 (64 KiB before the last multiple of 64 KiB) and 1.0 (at least 8 KiB before the end, on
/// 4 KiB) begin within the tail.
fn at_end(tail: &[u8], size: u64) -> [Option<usize>; 2] {
    let start = size.saturating_sub(tail.len() as u64);
    let within = |at: Option<u64>| usize::try_from(at?.checked_sub(start)?).ok();
    let old = (size & !0xffff).checked_sub(0x1_0000);
    let one = size.checked_sub(8 << 10).map(|at| at & !0xfff);
    [within(old), within(one)]
}

fn holds(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    at.checked_add(magic.len()).and_then(|end| bytes.get(at..end)) == Some(magic)
}

/// Number of used entries of a classic partition table, when there is one and it is not GPT's protective one.
pub fn mbr_partitions(head: &[u8]) -> Option<usize> {
    if !holds(head, 510, b"\x55\xaa") {
        return None;
    }
    let kinds = || (0..4).filter_map(|entry| head.get(446 + 16 * entry + 4).copied());
    let used = kinds().filter(|kind| *kind != 0).count();
    (used > 0 && !kinds().any(|kind| kind == 0xee)).then_some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_magic_is_found_in_its_place_and_nowhere_else() {
        for magic in AT_START {
            let mut head = vec![0; HEAD];
            head[magic.at..magic.at + magic.bytes.len()].copy_from_slice(magic.bytes);
            assert_eq!(found(&head, &[], 1 << 30), vec![magic.name]);
            head.rotate_right(1);
            assert_eq!(found(&head, &[], 1 << 30), Vec::<&str>::new(), "{}", magic.name);
        }
    }

    #[test]
    fn zfs_is_found_by_any_of_its_uberblocks() {
        for at in [128, 200, 255] {
            let mut head = vec![0; HEAD];
            head[at * 1024..at * 1024 + 8].copy_from_slice(ZFS[0]);
            assert_eq!(found(&head, &[], 1 << 30), vec!["ZFS member"]);
        }
    }

    #[test]
    fn md_superblocks_at_the_end_are_found() {
        for size in [1_u64 << 30, (1 << 30) + 512 * 77] {
            for at in at_end(&vec![0; TAIL], size) {
                let mut tail = vec![0; TAIL];
                let at = at.unwrap();
                tail[at..at + 4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
                assert_eq!(found(&[], &tail, size), vec!["md RAID member"]);
            }
        }
    }

    #[test]
    fn zeros_and_stumps_are_nothing() {
        assert_eq!(found(&[], &[], 0), Vec::<&str>::new());
        assert_eq!(found(&[0; 5000], &[0; 600], 5600), Vec::<&str>::new());
        assert_eq!(mbr_partitions(&[0; 100]), None);
    }

    #[test]
    fn a_protective_mbr_is_not_counted_as_partitions() {
        let mut head = vec![0; 512];
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(mbr_partitions(&head), None);
        head[450] = 0x83;
        assert_eq!(mbr_partitions(&head), Some(1));
        head[450] = 0xee;
        assert_eq!(mbr_partitions(&head), None);
    }
}
