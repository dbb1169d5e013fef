//! The volatile disk against a reference that knows, for each sector, everything that it may hold after a power cut.

use super::volatile::SECTOR;
use super::volatile::tests::{SECTORS, disk, sector};
use crate::luck::Luck;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, length: u64, fua: bool },
    Zero { at: u64, length: u64, fua: bool },
    Flush,
    Cut(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..SECTORS).prop_flat_map(|at| (Just(at), 1..=SECTORS - at));
    prop_oneof![
        6 => (range.clone(), prop::bool::weighted(0.2)).prop_map(|((at, length), fua)| Op::Write { at, length, fua }),
        2 => (range, prop::bool::weighted(0.2)).prop_map(|((at, length), fua)| Op::Zero { at, length, fua }),
        1 => Just(Op::Flush),
        1 => any::<u64>().prop_map(Op::Cut),
    ]
}

/// For each sector: all that it may hold after a cut, the newest last.
struct Reference(Vec<Vec<u8>>);

impl Reference {
    fn write(&mut self, at: u64, length: u64, value: u8, fua: bool) {
        for may in &mut self.0[at as usize..(at + length) as usize] {
            if fua {
                may.clear();
            }
            may.push(value);
        }
    }

    fn flush(&mut self) {
        self.0.iter_mut().for_each(|may| *may = may.split_off(may.len() - 1));
    }
}

proptest! {
    #[test]
    fn reads_see_the_newest_and_a_cut_leaves_only_what_was_possible(
        ops in prop::collection::vec(op(), 1..60), limit in prop_oneof![Just(1_u64 << 20), Just(6 * SECTOR)],
    ) {
        let mut disk = disk(limit);
        let mut reference = Reference(vec![vec![0]; SECTORS as usize]);
        for (round, op) in ops.into_iter().enumerate() {
            let value = round as u8 + 1;
            match op {
                Op::Write { at, length, fua } => {
                    disk.write(at * SECTOR, vec![value; (length * SECTOR) as usize], fua).unwrap();
                    reference.write(at, length, value, fua);
                }
                Op::Zero { at, length, fua } => {
                    disk.zero(at * SECTOR, length * SECTOR, fua).unwrap();
                    reference.write(at, length, 0, fua);
                }
                Op::Flush => {
                    disk.flush().unwrap();
                    reference.flush();
                }
                Op::Cut(seed) => {
                    disk.cut(&mut Luck::new(seed)).unwrap();
                    for (index, may) in reference.0.iter_mut().enumerate() {
                        let now = sector(&mut disk, index as u64);
                        prop_assert!(may.contains(&now), "sector {index} holds {now}, possible were {may:?}");
                        *may = vec![now];
                    }
                }
            }
            for (index, may) in reference.0.iter().enumerate() {
                prop_assert_eq!(Some(&sector(&mut disk, index as u64)), may.last(), "sector {}", index);
            }
        }
    }
}
