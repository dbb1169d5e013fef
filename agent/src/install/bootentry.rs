//! `bootentry`: the disk first in the firmware's boot order (UEFI 2.10 §3.1), once, without leaving stale entries.
//!
//! The decision is pure: what the firmware lists now, what we want, what has to change. A machine whose variables
//! cannot be written boots all the same, by the fallback path on the ESP.

use super::esp::loader_paths;
use super::plan::Part;
use muster_protocol::ids::Arch;
use std::collections::BTreeMap;
use std::io;

/// Our entries are told by this description.
pub const DESCRIPTION: &str = "Muster";
/// LOAD_OPTION_ACTIVE
const ACTIVE: u32 = 1;

/// The variables of EFI_GLOBAL_VARIABLE, as far as booting goes. Values are without the attributes.
pub trait Variables {
    fn names(&mut self) -> io::Result<Vec<String>>;
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    fn write(&mut self, name: &str, value: &[u8]) -> io::Result<()>;
    fn delete(&mut self, name: &str) -> io::Result<()>;
}

/// What the firmware lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    pub order: Vec<u16>,
    pub options: BTreeMap<u16, Vec<u8>>,
}

/// What has to change, in this order, so that a cut in between leaves no order that points to nothing of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub option: Option<(u16, Vec<u8>)>,
    pub order: Option<Vec<u16>>,
    pub delete: Vec<u16>,
}

/// What came of it; no reason to stop an install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// The firmware's memory is written only where it must be.
    AlreadyThere,
}

/// Makes it so.
pub fn apply(variables: &mut dyn Variables, option: &[u8]) -> io::Result<Outcome> {
    let mut listed = Listed::default();
    for name in variables.names()? {
        if let Some(number) = number_of(&name)
            && let Some(value) = variables.read(&name)?
        {
            listed.options.insert(number, value);
        }
    }
    if let Some(value) = variables.read("BootOrder")? {
        listed.order = value.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    }
    let changes = changes(&listed, option);
    if changes == Changes::default() {
        return Ok(Outcome::AlreadyThere);
    }
    if let Some((number, value)) = changes.option {
        variables.write(&name_of(number), &value)?;
    }
    if let Some(order) = changes.order {
        let value: Vec<u8> = order.iter().flat_map(|number| number.to_le_bytes()).collect();
        variables.write("BootOrder", &value)?;
    }
    for number in changes.delete {
        variables.delete(&name_of(number))?;
    }
    Ok(Outcome::Written)
}

/// One entry of ours, first in the order, all other entries behind it as they were.
pub fn changes(listed: &Listed, option: &[u8]) -> Changes {
    let mut mine: Vec<u16> = listed
        .options
        .iter()
        .filter(|(_, value)| description(value).as_deref() == Some(DESCRIPTION))
        .map(|(number, _)| *number)
        .collect();
    // An entry that is right already is kept before one that would have to be written.
    mine.sort_by_key(|number| listed.options.get(number).is_none_or(|value| value != option));
    let free = || (0..=u16::MAX).find(|number| !listed.options.contains_key(number));
    let Some(number) = mine.first().copied().or_else(free) else { return Changes::default() };

    let mut order = vec![number];
    for other in &listed.order {
        // Firmware lists numbers without an entry now and then; those stay as they are, they are not ours.
        if !mine.contains(other) && !order.contains(other) {
            order.push(*other);
        }
    }
    let right = listed.options.get(&number).is_some_and(|value| value == option);
    Changes {
        option: (!right).then(|| (number, option.to_vec())),
        order: (order != listed.order).then_some(order),
        delete: mine.into_iter().skip(1).collect(),
    }
}

/// EFI_LOAD_OPTION: the loader of this partition, named by the partition's GUID.
pub fn load_option(esp: &Part, block_bytes: u32, arch: Arch) -> Vec<u8> {
    let utf16 = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let [_, loader] = loader_paths(arch);
    let file = utf16(&format!("\\{}", loader.replace('/', "\\")));
    let block = u64::from(block_bytes);

    // Hard drive media device path, file path, end (UEFI 2.10 §10.3.5).
    let mut path = vec![0x04, 0x01, 42, 0];
    path.extend_from_slice(&esp.number.to_le_bytes());
    path.extend_from_slice(&(esp.bytes.start / block).to_le_bytes());
    path.extend_from_slice(&((esp.bytes.end - esp.bytes.start) / block).to_le_bytes());
    path.extend_from_slice(&esp.guid.0);
    path.extend_from_slice(&[0x02, 0x02]);
    path.extend_from_slice(&[0x04, 0x04]);
    path.extend_from_slice(&u16::try_from(file.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    path.extend_from_slice(&file);
    path.extend_from_slice(&[0x7f, 0xff, 4, 0]);

    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend_from_slice(&utf16(DESCRIPTION));
    option.extend_from_slice(&path);
    option
}

fn description(option: &[u8]) -> Option<String> {
    let units = option.get(6..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).collect::<Result<_, _>>().ok()
}

fn name_of(number: u16) -> String {
    format!("Boot{number:04X}")
}

fn number_of(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4)?;
    let hex = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
    digits.chars().all(hex).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Sizes, plan};
    use super::*;
    use muster_protocol::ids::{ClusterId, Number};
    use proptest::prelude::*;

    fn option(n: u64) -> Vec<u8> {
        let order = Number { delegation: 1, generation: 0, n };
        let plan = plan(24 << 30, 512, &Sizes::DESIGN, ClusterId([1; 16]), order).unwrap();
        load_option(&plan.esp, 512, Arch::X86_64)
    }

    fn foreign(name: &str) -> Vec<u8> {
        let mut option = vec![1, 0, 0, 0, 4, 0];
        option.extend(name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        option.extend_from_slice(&[0x7f, 0xff, 4, 0]);
        option
    }

    /// What the firmware lists after the changes.
    fn after(listed: &Listed, changes: Changes) -> Listed {
        let mut listed = listed.clone();
        listed.options.extend(changes.option);
        listed.order = changes.order.unwrap_or(listed.order);
        listed.options.retain(|number, _| !changes.delete.contains(number));
        listed
    }

    #[test]
    fn the_entry_is_added_once_and_comes_first() {
        let listed =
            Listed { order: vec![1, 0], options: [(0, foreign("UiApp")), (1, foreign("UEFI PXEv4"))].into() };
        let once = after(&listed, changes(&listed, &option(1)));
        assert_eq!(once.order, [2, 1, 0]);
        assert_eq!(description(&once.options[&2]).unwrap(), DESCRIPTION);
        assert_eq!(changes(&once, &option(1)), Changes::default());
    }

    #[test]
    fn a_reinstall_takes_over_the_old_entry() {
        let listed = Listed { order: vec![0, 3], options: [(0, foreign("x")), (3, option(1))].into() };
        let next = after(&listed, changes(&listed, &option(2)));
        assert_eq!(next, Listed { order: vec![3, 0], options: [(0, foreign("x")), (3, option(2))].into() });
    }

    #[test]
    fn duplicates_go_and_strangers_stay() {
        let listed = Listed {
            order: vec![5, 9, 2, 7, 5],
            options: [(2, option(1)), (5, option(2)), (7, foreign("Windows"))].into(),
        };
        let next = after(&listed, changes(&listed, &option(2)));
        assert_eq!(next.order, [5, 9, 7]);
        assert_eq!(next.options.keys().copied().collect::<Vec<_>>(), [5, 7]);
    }

    #[test]
    fn the_load_option_is_as_efibootmgr_reads_it() {
        let option = option(1);
        let listed = &option[6 + 2 * (DESCRIPTION.len() + 1)..];
        assert_eq!(usize::from(u16::from_le_bytes([option[4], option[5]])), listed.len());
        assert_eq!(&listed[..8], &[4, 1, 42, 0, 1, 0, 0, 0]);
        assert_eq!(u64::from_le_bytes(listed[8..16].try_into().unwrap()), (2 << 20) / 512);
        assert_eq!(&listed[listed.len() - 4..], &[0x7f, 0xff, 4, 0]);
    }

    #[test]
    fn only_boot_entries_are_taken_for_boot_entries() {
        assert_eq!(number_of("Boot001A"), Some(0x1a));
        for name in ["BootOrder", "BootNext", "Boot001a", "Boot1", "Boot00011", "Boot+001"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_listed_ends_in_one_entry_of_ours_in_front(
            order in proptest::collection::vec(0..6_u16, 0..8),
            kinds in proptest::collection::btree_map(0..6_u16, 0..4_u8, 0..6),
        ) {
            let options = kinds.into_iter().map(|(number, kind)| (number, match kind {
                0 => foreign("other"),
                1 => vec![1, 2, 3],
                kind => option(u64::from(kind)),
            })).collect();
            let listed = Listed { order, options };
            let next = after(&listed, changes(&listed, &option(2)));
            let ours: Vec<u16> = next.options.iter()
                .filter(|(_, value)| description(value).as_deref() == Some(DESCRIPTION))
                .map(|(number, _)| *number).collect();
            prop_assert_eq!(ours.len(), 1);
            prop_assert_eq!(next.order[0], ours[0]);
            prop_assert_eq!(next.order.iter().filter(|number| **number == ours[0]).count(), 1);
            prop_assert_eq!(changes(&next, &option(2)), Changes::default());
        }
    }
}
