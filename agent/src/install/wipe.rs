//! `wipe`: zeros where the old contents could still be recognised, so that no later tool takes the disk for what it was.

use super::disk::{CHUNK, Disk, zero};
use super::fat::HEAD_BYTES;
use super::plan::{Plan, Sizes};
use muster_protocol::marker::{LENGTH, OFFSET};
use std::io;
use std::ops::Range;

pub fn wipe(disk: &mut dyn Disk, plan: &Plan, sizes: &Sizes, image_bytes: u64) -> io::Result<u64> {
    let mut bytes = 0;
    for ranges in [bootable(plan).to_vec(), ranges(plan, sizes, image_bytes)] {
        for range in ranges {
            bytes += range.end - range.start;
            zero(disk, range)?;
        }
        disk.flush()?;
    }
    Ok(bytes)
}

/// What a firmware needs to find a loader: both tables, and the boot sector of an ESP of ours. It goes first, behind a
/// flush of its own; a cut in the rest of the wipe could else leave a boot sector whose loader is half gone.
fn bootable(plan: &Plan) -> [Range<u64>; 3] {
    let esp = plan.esp.bytes.start;
    [0..CHUNK.min(OFFSET), plan.usable.end..plan.size, esp..esp + HEAD_BYTES as u64]
}

/// Both ends of the disk (tables, RAID and ZFS labels) and both ends of each partition-to-be, in rising order without
/// overlap. Left out are the marker's place, and the image's place in slot A: that is written and verified whole, and
/// what a resumed install finds there it may keep.
pub fn ranges(plan: &Plan, sizes: &Sizes, image_bytes: u64) -> Vec<Range<u64>> {
    let marker = OFFSET..OFFSET + LENGTH;
    let image = plan.slots[0].bytes.start..plan.slots[0].bytes.start + image_bytes;
    let mut wanted = vec![0..sizes.edge, plan.size - sizes.edge..plan.size];
    for part in plan.parts() {
        let edge = CHUNK.min(part.bytes.end - part.bytes.start);
        wanted.push(part.bytes.start..part.bytes.start + edge);
        wanted.push(part.bytes.end - edge..part.bytes.end);
    }
    wanted.sort_by_key(|range| range.start);
    let mut ranges = Vec::new();
    let mut done = 0;
    for range in wanted {
        let fresh = range.start.max(done)..range.end;
        done = done.max(range.end);
        for piece in without(fresh, &marker) {
            ranges.extend(without(piece, &image));
        }
    }
    ranges
}

/// What is left of a range when another is cut out.
fn without(range: Range<u64>, hole: &Range<u64>) -> Vec<Range<u64>> {
    let before = range.start..range.end.min(hole.start);
    let after = range.start.max(hole.end)..range.end;
    [before, after].into_iter().filter(|piece| piece.start < piece.end).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;
    use muster_protocol::ids::{ClusterId, Number};

    #[test]
    fn a_wipe_spares_the_marker_and_the_image_and_covers_all_edges() {
        let plan = plan(24 << 30, 512, &Sizes::DESIGN, ClusterId([1; 16]), Number::default()).unwrap();
        let image = 600 << 20;
        let ranges = ranges(&plan, &Sizes::DESIGN, image);
        let touched = |at: u64| ranges.iter().any(|range| range.contains(&at));
        assert!(touched(0) && touched(OFFSET - 1) && touched(OFFSET + LENGTH) && touched(plan.size - 1));
        assert!(!touched(OFFSET) && !touched(OFFSET + LENGTH - 1));
        let a = plan.slots[0].bytes.start;
        assert!(!touched(a) && !touched(a + image - 1));
        for part in [&plan.esp, &plan.slots[1], &plan.data] {
            assert!(touched(part.bytes.start) && touched(part.bytes.end - 1), "{}", part.name);
        }
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:?}");
        }
    }

    #[test]
    fn a_hole_may_miss_cut_or_swallow_a_range() {
        assert_eq!(without(0..10, &(20..30)), vec![0..10]);
        assert_eq!(without(0..10, &(3..5)), vec![0..3, 5..10]);
        assert_eq!(without(3..5, &(0..10)), Vec::<Range<u64>>::new());
        assert_eq!(without(0..10, &(5..30)), vec![0..5]);
    }
}
