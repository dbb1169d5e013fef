//! A machine's console file, boot by boot: when its kernel started and when it said that a step begins.
//!
//! Each line has the host's clock at its end, and kernel and agent stamp their own lines with the time since kernel start.
//! A serial line only ever delays, and on a busy host it delays much: what a stamp is on the host's clock is told by the
//! line nearby that came through fastest.

use std::borrow::Cow;

/// The guest's clock may run a little fast or slow, so that the two are compared within so much of it only.
const NEAR_MS: u64 = 15_000;
/// Whatever the agent says.
const AGENT: &str = "muster: ";
/// The kernel's last word. By then its clock may have leapt (seen: 1.8 s ahead on arm64, once its processors are
/// stopped), and a line from the future would count as the fastest of all.
const LAST_WORD: &str = "reboot: ";

/// From the loader's last word to the next boot's, on the host's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boot {
    /// When the kernel's own clock began.
    pub(crate) kernel_ms: u64,
    /// When PID 1 made its first line.
    pub(crate) first_line_ms: Option<u64>,
    /// When the lines `step … begins` were made.
    pub(crate) begins: Vec<(String, u64)>,
}

/// What a boot said, line by line.
#[derive(Default)]
struct Said {
    /// The kernel's stamp, and the host's clock at the line's end.
    clocks: Vec<(u64, u64)>,
    /// The stamp of PID 1's first line.
    first: Option<u64>,
    begins: Vec<(String, u64)>,
}

impl Said {
    fn boot(self) -> Boot {
        Boot {
            kernel_ms: self.host(0),
            first_line_ms: self.first.map(|stamp| self.host(stamp)),
            begins: self.begins.iter().map(|(step, stamp)| (step.clone(), self.host(*stamp))).collect(),
        }
    }

    /// The host's clock at a stamp: as the line nearby that was delayed least tells it.
    fn host(&self, stamp: u64) -> u64 {
        let near = self.clocks.iter().filter(|(at, _)| at.abs_diff(stamp) <= NEAR_MS);
        let all = self.clocks.iter();
        let start = |(at, host): &(u64, u64)| host.saturating_sub(*at);
        near.map(start).min().or_else(|| all.map(start).min()).unwrap_or(0).saturating_add(stamp)
    }
}

pub(crate) fn boots(console: &str) -> Vec<Boot> {
    let mut boots = Vec::new();
    let mut open: Option<Said> = None;
    let mut last_stamp = 0;
    for (at_ms, text) in untangled(console) {
        let Some((stamp_ms, text)) = stamped(&text) else {
            // firmware or loader: the next stamp is another kernel's
            if is_before_kernel(&text) {
                boots.extend(open.take());
            }
            continue;
        };
        if stamp_ms + 1000 < last_stamp {
            boots.extend(open.take());
        }
        last_stamp = stamp_ms;
        let said = open.get_or_insert_default();
        if !text.starts_with(LAST_WORD) {
            said.clocks.push((stamp_ms, at_ms));
        }
        if let Some(text) = text.strip_prefix(AGENT) {
            said.first.get_or_insert(stamp_ms);
            let step = text.strip_prefix("step ").and_then(|text| text.strip_suffix(" begins"));
            said.begins.extend(step.map(|step| (step.to_owned(), stamp_ms)));
        }
    }
    boots.extend(open);
    boots.into_iter().map(Said::boot).collect()
}

/// Lines as they were meant. The kernel writes past what a program has in the port's buffer, so that one of its lines may
/// stand in the middle of another, whose rest is then a line without a stamp.
fn untangled(console: &str) -> Vec<(u64, Cow<'_, str>)> {
    let mut lines = Vec::new();
    let mut head = "";
    for (at_ms, text) in console.lines().filter_map(clocked) {
        let begun = std::mem::take(&mut head);
        if let Some(middle) = intruder(text) {
            lines.push((at_ms, Cow::Borrowed(&text[middle..])));
            head = &text[..middle];
        } else if stamped(text).is_some() || begun.is_empty() {
            lines.push((at_ms, Cow::Borrowed(text)));
        } else {
            lines.push((at_ms, Cow::Owned(begun.to_owned() + text)));
        }
    }
    lines
}

/// Where a stamp follows upon other text, if it is of the same moment as the line's own.
fn intruder(text: &str) -> Option<usize> {
    let own = stamped(text).map(|(at, _)| at);
    let fits = |at: u64| own.is_none_or(|own| at.abs_diff(own) <= 1000);
    let mut places = text.match_indices('[').map(|(place, _)| place).filter(|place| *place > 0);
    places.find(|place| stamped(&text[*place..]).is_some_and(|(at, _)| fits(at)))
}

fn is_before_kernel(text: &str) -> bool {
    text.starts_with("BdsDxe:") || text.starts_with("EFI stub:") || text.starts_with(">>Start PXE")
}

fn clocked(line: &str) -> Option<(u64, &str)> {
    let (at, text) = line.split_once(' ')?;
    Some((at.parse().ok()?, text))
}

/// `[    4.443710] text`
fn stamped(text: &str) -> Option<(u64, &str)> {
    let (stamp, text) = text.strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = stamp.trim_start().split_once('.')?;
    let micros: u64 = (micros.len() == 6).then(|| micros.parse().ok())??;
    let seconds: u64 = seconds.parse().ok()?;
    Some((seconds.checked_mul(1000)?.checked_add(micros / 1000)?, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORDED: &str = "\
1795522805455 EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path
1795522810585 [    4.443710] muster: step mounts done in 29 ms
1795522810597 [    4.462631] muster: muster-agent 0.1.0 as PID 1, kernel 6.12.117+deb13-amd64
1795522814113 | state         INSTALLING                                                 |
1795522814130 [    7.995000] muster: step claim begins
1795522814183 [    8.051827] muster: step claim done in 57 ms
1795522844217 [   38.062354] reboot: Restarting system
1795522851681 EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path
1795522856693 [    4.368670] muster: step mounts done in 9 ms
1795522880776 [   28.426823] kvm_intel: VMX not supported by CPU 0
";

    #[test]
    fn a_kernel_starts_at_the_smallest_difference_of_the_two_clocks() {
        let boots = boots(RECORDED);
        assert_eq!(boots.len(), 2);
        assert_eq!(boots[0].kernel_ms, 1_795_522_814_183 - 8_051);
        let start = boots[0].kernel_ms;
        assert_eq!(boots[0].first_line_ms, Some(start + 4443));
        assert_eq!(boots[0].begins, [("claim".to_owned(), start + 7995)]);
        assert_eq!(boots[1].kernel_ms, 1_795_522_856_693 - 4_368);
    }

    #[test]
    fn a_clock_that_starts_again_is_another_boot_even_without_a_loader_s_word() {
        let text = "5000 [    4.000000] muster: a\n9000 [    2.000000] muster: b\n";
        assert_eq!(boots(text).iter().map(|boot| boot.kernel_ms).collect::<Vec<_>>(), [1000, 7000]);
    }

    #[test]
    fn a_line_that_came_late_is_dated_by_its_neighbours() {
        let text = "1000100 [    0.100000] a\n1009000 [    5.000000] muster: step write begins\n1006050 [    6.000000] b\n";
        let boots = boots(text);
        assert_eq!(boots[0].begins, [("write".to_owned(), 1_005_000)]);
    }

    #[test]
    fn a_line_that_the_kernel_interrupted_is_put_together_again() {
        let text = "1003000 [    3.000000] muster: step no[    3.004000] kvm_intel: VMX not supported\n\
                    1003010 de begins\n\
                    1004000 [    4.000000] muster: said \"[    1.000000] x\" \n";
        let boots = boots(text);
        assert_eq!(boots.len(), 1);
        assert_eq!(boots[0].begins, [("node".to_owned(), 1_002_996)]);
    }

    #[test]
    fn the_last_word_s_clock_dates_nothing() {
        let text = "1000100 [    0.100000] muster: step mark begins\n1000200 [    2.000000] reboot: Restarting system\n";
        assert_eq!(boots(text)[0].begins, [("mark".to_owned(), 1_000_100)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(([0-9]{0,22} )?(\\[ *[0-9]{0,22}\\.[0-9]{5,7}\\] )?.*\n){0,6}") {
            let _ = boots(&text);
        }
    }
}
