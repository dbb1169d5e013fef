//! A FAT32 file system with a fixed set of files (Microsoft's FAT specification 1.03), as bytes and their places.
//!
//! Pure, and small because everything is known beforehand: each file and folder is one run of clusters, nothing is
//! ever deleted or grown. The same files give the same bytes. Checked by `fsck.fat` and mtools in the tests.

use std::collections::BTreeMap;

/// FAT32 begins at this many clusters: with fewer, firmware takes it for FAT16.
const CLUSTERS_MIN: u64 = 65_525;
/// Of a dword of the table 28 bits count; this ends a run.
const END: u32 = 0x0fff_ffff;
const RESERVED_SECTORS: u64 = 32;
/// Boot sector and, with small sectors, its FSInfo and both backups: what makes this a file system at all.
pub const HEAD_BYTES: usize = 4096;

/// All places are relative to the partition's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fat {
    /// The first [`HEAD_BYTES`], to be written last.
    pub head: Vec<u8>,
    /// Rest of the reserved sectors, both tables, folders.
    pub rest: Vec<(u64, Vec<u8>)>,
    /// Where each file's bytes go, in the order in which the files were given.
    pub files: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatError {
    #[error("{bytes} bytes cannot hold a FAT32 file system")]
    TooSmall { bytes: u64 },
    #[error("the files need {need} bytes, the file system has room for {room}")]
    Full { need: u64, room: u64 },
    #[error("`{path}` cannot be a FAT file name")]
    Name { path: String },
}

/// Sizes in sectors and clusters, computed once.
struct Shape {
    sector: u64,
    cluster: u64,
    sectors: u64,
    table_sectors: u64,
    clusters: u64,
}

impl Shape {
    fn new(bytes: u64, sector: u64) -> Option<Self> {
        let sectors = bytes / sector;
        // The largest cluster that still makes it FAT32; 4 KiB is a page, and enough.
        [4096, 2048, 1024, 512].into_iter().filter(|cluster| *cluster >= sector).find_map(|cluster| {
            let rest = sectors.checked_sub(RESERVED_SECTORS)?;
            let per_cluster = cluster / sector;
            // Both tables take from the room that they describe: the smallest size that is enough.
            let bytes_needed = |clusters: u64| ((clusters + 2) * 4).div_ceil(sector);
            let table_sectors = bytes_needed(rest / per_cluster);
            let clusters = rest.checked_sub(2 * table_sectors)? / per_cluster;
            let shape = Self { sector, cluster, sectors, table_sectors, clusters };
            (clusters >= CLUSTERS_MIN && u32::try_from(sectors).is_ok()).then_some(shape)
        })
    }

    fn table_at(&self, copy: u64) -> u64 {
        (RESERVED_SECTORS + copy * self.table_sectors) * self.sector
    }

    fn cluster_at(&self, cluster: u32) -> u64 {
        self.table_at(2) + (u64::from(cluster) - 2) * self.cluster
    }
}

/// Lays out files (path with `/`, length) on a partition of `bytes` bytes.
pub fn layout(
    bytes: u64,
    sector: u32,
    serial: u32,
    label: &[u8; 11],
    files: &[(&str, u64)],
) -> Result<Fat, FatError> {
    let shape = Shape::new(bytes, u64::from(sector)).ok_or(FatError::TooSmall { bytes })?;
    let mut folders: BTreeMap<String, Vec<Child>> = BTreeMap::from([(String::new(), Vec::new())]);
    for (at, (path, length)) in files.iter().enumerate() {
        let length = u32::try_from(*length).map_err(|_| FatError::Full { need: *length, room: bytes })?;
        add(&mut folders, path, What::File { at, length })?;
    }

    // Clusters in one run each: the root first, then the other folders, then the files.
    let mut taken = Taken { table: vec![0x0fff_fff8, END], shape: &shape };
    let mut starts: BTreeMap<&str, u32> = BTreeMap::new();
    for (path, children) in &folders {
        let entries = 3 + children.iter().map(|child| 1 + long_parts(&child.name)).sum::<usize>();
        starts.insert(path, taken.run(entries as u64 * 32)?);
    }
    let mut file_starts = vec![0; files.len()];
    for (start, (_, length)) in file_starts.iter_mut().zip(files) {
        *start = if *length == 0 { 0 } else { taken.run(*length)? };
    }

    let mut rest = vec![];
    for (path, children) in &folders {
        let start = starts.get(path.as_str()).copied().unwrap_or(2);
        let mut bytes = match parent(path) {
            None => entry(label, 0x08, 0, 0).to_vec(),
            Some(up) => {
                // A folder's `..` says 0 for the root, wherever that lies.
                let up = if up.is_empty() { 0 } else { starts.get(up).copied().unwrap_or(0) };
                [entry(b".          ", 0x10, start, 0), entry(b"..         ", 0x10, up, 0)].concat()
            }
        };
        for (number, child) in children.iter().enumerate() {
            let (first, length, kind) = match child.what {
                What::Folder => {
                    let path = join(path, &child.name);
                    (starts.get(path.as_str()).copied().unwrap_or(0), 0, 0x10)
                }
                What::File { at, length } => (file_starts[at], length, 0x20),
            };
            bytes.extend_from_slice(&named(&child.name, number, kind, first, length));
        }
        bytes.resize(bytes.len().next_multiple_of(usize::try_from(shape.cluster).unwrap_or(4096)), 0);
        rest.push((shape.cluster_at(start), bytes));
    }
    let used = taken.table.len() as u64 - 2;
    let mut table: Vec<u8> = taken.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    table.resize(usize::try_from(shape.table_sectors * shape.sector).unwrap_or(0), 0);
    rest.extend([(shape.table_at(0), table.clone()), (shape.table_at(1), table)]);

    let mut reserved = reserved(&shape, serial, label, used);
    let after = reserved.split_off(HEAD_BYTES);
    rest.insert(0, (HEAD_BYTES as u64, after));
    let files = file_starts
        .into_iter()
        .map(|start| if start == 0 { shape.cluster_at(2) } else { shape.cluster_at(start) })
        .collect();
    Ok(Fat { head: reserved, rest, files })
}

struct Taken<'a> {
    table: Vec<u32>,
    shape: &'a Shape,
}

impl Taken<'_> {
    fn run(&mut self, bytes: u64) -> Result<u32, FatError> {
        let count = bytes.div_ceil(self.shape.cluster).max(1);
        let start = self.table.len() as u64;
        if start - 2 + count > self.shape.clusters {
            let room = self.shape.clusters * self.shape.cluster;
            return Err(FatError::Full { need: (start - 2 + count) * self.shape.cluster, room });
        }
        // FAT32 has fewer than 2^28 clusters, so these fit.
        let follows = (start + 1..start + count).map(|next| u32::try_from(next).unwrap_or(END));
        self.table.extend(follows.chain([END]));
        Ok(u32::try_from(start).unwrap_or(END))
    }
}

struct Child {
    name: String,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Folder,
    File { at: usize, length: u32 },
}

/// Puts a file into its folder, and the folder into its own.
fn add(folders: &mut BTreeMap<String, Vec<Child>>, path: &str, what: What) -> Result<(), FatError> {
    let bad = || FatError::Name { path: path.into() };
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if path.starts_with('/')
        || name.is_empty()
        || name.len() > 200
        || !name.chars().all(allowed)
        || name.chars().all(|c| c == '.')
    {
        return Err(bad());
    }
    if !folders.contains_key(folder) {
        add(folders, folder, What::Folder)?;
        folders.insert(folder.to_owned(), Vec::new());
    }
    let children = folders.get_mut(folder).ok_or_else(bad)?;
    if children.iter().any(|child| child.name.eq_ignore_ascii_case(name)) {
        return Err(bad());
    }
    children.push(Child { name: name.into(), what });
    Ok(())
}

fn parent(path: &str) -> Option<&str> {
    if path.is_empty() { None } else { Some(path.rsplit_once('/').map_or("", |(up, _)| up)) }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}") }
}

/// Long-name entries (13 UTF-16 units each, last part first) and the short entry they belong to.
fn named(name: &str, number: usize, kind: u8, first: u32, length: u32) -> Vec<u8> {
    let short = short(name, number);
    let mut bytes = Vec::new();
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    for part in (0..long_parts(name)).rev() {
        let mut entry = [0xff; 32];
        let last = if part + 1 == long_parts(name) { 0x40 } else { 0 };
        entry[0] = u8::try_from(part + 1).unwrap_or(1) | last;
        entry[11..14].copy_from_slice(&[0x0f, 0, sum]);
        entry[26..28].copy_from_slice(&[0, 0]);
        let places = (1..11).chain(14..26).chain(28..32).collect::<Vec<_>>();
        for (at, place) in places.chunks(2).enumerate() {
            // One zero behind the name, then all ones.
            let unit = match units.get(13 * part + at) {
                Some(unit) => *unit,
                None if 13 * part + at == units.len() => 0,
                None => 0xffff,
            };
            entry[place[0]..=place[1]].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend_from_slice(&entry);
    }
    bytes.extend_from_slice(&entry(&short, kind, first, length));
    bytes
}

/// 0 for a name that is its own short name.
fn long_parts(name: &str) -> usize {
    if plain(name).is_some() { 0 } else { name.len().div_ceil(13) }
}

/// `NAME.EXT` in capitals, as 8 + 3 padded bytes.
fn plain(name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = |text: &str, most| {
        text.len() <= most && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    (!stem.is_empty() && fits(stem, 8) && fits(extension, 3)).then(|| padded(stem, extension))
}

/// The short name: itself, or its first letters and a number that is unique in its folder.
fn short(name: &str, number: usize) -> [u8; 11] {
    plain(name).unwrap_or_else(|| {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let upper = |text: &str, most| {
            text.chars().filter(char::is_ascii_alphanumeric).take(most).collect::<String>().to_uppercase()
        };
        let tail = format!("~{}", number + 1);
        padded(&format!("{}{tail}", upper(stem, 8 - tail.len())), &upper(extension, 3))
    })
}

fn padded(stem: &str, extension: &str) -> [u8; 11] {
    let mut name = [b' '; 11];
    for (place, byte) in name.iter_mut().zip(stem.bytes().take(8)) {
        *place = byte;
    }
    for (place, byte) in name[8..].iter_mut().zip(extension.bytes()) {
        *place = byte;
    }
    name
}

/// A short entry; every date is 1980-01-01, FAT's first, so that the bytes depend on nothing but the files.
fn entry(name: &[u8; 11], kind: u8, first: u32, length: u32) -> [u8; 32] {
    const DAY_ONE: [u8; 2] = [0x21, 0x00];
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = kind;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DAY_ONE);
    }
    let first = first.to_le_bytes();
    entry[20..22].copy_from_slice(&first[2..]);
    entry[26..28].copy_from_slice(&first[..2]);
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}

/// Boot sector, FSInfo, and their backups six sectors later.
fn reserved(shape: &Shape, serial: u32, label: &[u8; 11], used: u64) -> Vec<u8> {
    let small = |value: u64| u16::try_from(value).unwrap_or(0).to_le_bytes();
    let wide = |value: u64| u32::try_from(value).unwrap_or(0).to_le_bytes();
    let sector = usize::try_from(shape.sector).unwrap_or(512);
    let mut boot = vec![0; sector];
    // Jump over the parameters to an endless loop (EB FE): this partition is no BIOS boot device.
    boot[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    boot[90..92].copy_from_slice(&[0xeb, 0xfe]);
    boot[3..11].copy_from_slice(b"MUSTER  ");
    boot[11..13].copy_from_slice(&small(shape.sector));
    boot[13] = u8::try_from(shape.cluster / shape.sector).unwrap_or(1);
    boot[14..16].copy_from_slice(&small(RESERVED_SECTORS));
    boot[16] = 2;
    boot[21] = 0xf8;
    boot[24..26].copy_from_slice(&small(63));
    boot[26..28].copy_from_slice(&small(255));
    boot[32..36].copy_from_slice(&wide(shape.sectors));
    boot[36..40].copy_from_slice(&wide(shape.table_sectors));
    boot[44..48].copy_from_slice(&wide(2));
    boot[48..50].copy_from_slice(&small(1));
    boot[50..52].copy_from_slice(&small(6));
    boot[64] = 0x80;
    boot[66] = 0x29;
    boot[67..71].copy_from_slice(&serial.to_le_bytes());
    boot[71..82].copy_from_slice(label);
    boot[82..90].copy_from_slice(b"FAT32   ");
    boot[510..512].copy_from_slice(&[0x55, 0xaa]);

    let mut info = vec![0; sector];
    info[..4].copy_from_slice(b"RRaA");
    info[484..488].copy_from_slice(b"rrAa");
    info[488..492].copy_from_slice(&wide(shape.clusters - used));
    info[492..496].copy_from_slice(&wide(used + 2));
    info[508..512].copy_from_slice(&[0, 0, 0x55, 0xaa]);

    let mut all = vec![0; sector * usize::try_from(RESERVED_SECTORS).unwrap_or(32)];
    for start in [0, 6 * sector] {
        all[start..start + sector].copy_from_slice(&boot);
        all[start + sector..start + 2 * sector].copy_from_slice(&info);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &[u8; 11] = b"TEST       ";

    #[test]
    fn files_lie_apart_and_inside() {
        let files =
            [("EFI/BOOT/BOOTX64.EFI", 100_000), ("EFI/Linux/a+3.efi", 30 << 20), ("loader/loader.conf", 20)];
        for (bytes, sector) in [(512 << 20, 512), (512 << 20, 4096), (64 << 20, 512)] {
            let fat = layout(bytes, sector, 1, LABEL, &files).unwrap();
            let mut ranges: Vec<(u64, u64)> =
                fat.rest.iter().map(|(at, bytes)| (*at, at + bytes.len() as u64)).collect();
            ranges.extend(fat.files.iter().zip(files).map(|(at, (_, length))| (*at, at + length)));
            ranges.push((0, HEAD_BYTES as u64));
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
            assert!(ranges.last().unwrap().1 <= bytes);
            assert_eq!(fat, layout(bytes, sector, 1, LABEL, &files).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(layout(1 << 20, 512, 1, LABEL, &[]), Err(FatError::TooSmall { bytes: 1 << 20 }));
        assert!(matches!(layout(64 << 20, 512, 1, LABEL, &[("A", 64 << 20)]), Err(FatError::Full { .. })));
        assert!(matches!(layout(64 << 20, 512, 1, LABEL, &[("A", u64::MAX)]), Err(FatError::Full { .. })));
    }

    #[test]
    fn a_name_that_fat_cannot_hold_is_refused() {
        for path in ["", "a/", "/a", "a//b", "a/../b", "a b", "a\\b", "ä", "a:b", &"a".repeat(201)] {
            let refused = layout(64 << 20, 512, 1, LABEL, &[(path, 1)]);
            assert!(matches!(refused, Err(FatError::Name { .. })), "{path}");
        }
        let twice = layout(64 << 20, 512, 1, LABEL, &[("A", 1), ("a", 1)]);
        assert!(matches!(twice, Err(FatError::Name { .. })));
    }

    #[test]
    fn short_names_are_made_as_other_systems_do() {
        assert_eq!(&short("BOOTX64.EFI", 0), b"BOOTX64 EFI");
        assert_eq!(&short("EFI", 0), b"EFI        ");
        assert_eq!(&short("loader.conf", 0), b"LOADER~1CON");
        assert_eq!(&short("muster-6.12.48+deb13-amd64-01234567+3.efi", 1), b"MUSTER~2EFI");
    }
}
