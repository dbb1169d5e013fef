//! A machine's console file, boot by boot: when its kernel started and when it said that a step begins.
//!
//! Each line has the host's clock at its end, and kernel and agent stamp their own lines with the time since kernel start.
//! A serial line only ever delays, so the smallest difference of the two clocks is the kernel's start.

/// The guest's clock may run a little fast or slow; what it stamps later than this says nothing about its start.
const EARLY_MS: u64 = 15_000;
/// The first thing that PID 1 says: a step is told when it is done.
const FIRST: &str = "muster: ";

/// From the loader's last word to the next boot's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boot {
    /// Host clock when the kernel's own clock began.
    pub(crate) kernel_ms: u64,
    /// Host clock of PID 1's first line.
    pub(crate) first_line_ms: Option<u64>,
    /// Steps and the host clock of the line `step … begins`.
    pub(crate) begins: Vec<(String, u64)>,
}

pub(crate) fn boots(console: &str) -> Vec<Boot> {
    let mut boots = Vec::new();
    let mut open: Option<Boot> = None;
    let mut last_stamp = 0;
    for line in console.lines() {
        let Some((at_ms, text)) = clocked(line) else { continue };
        let Some((stamp_ms, text)) = stamped(text) else {
            // firmware or loader: the next stamp is another kernel's
            if is_before_kernel(text) {
                boots.extend(open.take());
            }
            continue;
        };
        if stamp_ms + 1000 < last_stamp {
            boots.extend(open.take());
        }
        last_stamp = stamp_ms;
        let kernel_ms = at_ms.saturating_sub(stamp_ms);
        let boot = open.get_or_insert_with(|| Boot { kernel_ms, ..Boot::default() });
        if stamp_ms <= EARLY_MS {
            boot.kernel_ms = boot.kernel_ms.min(kernel_ms);
        }
        if let Some(said) = text.strip_prefix(FIRST) {
            boot.first_line_ms.get_or_insert(at_ms);
            let step = said.strip_prefix("step ").and_then(|said| said.strip_suffix(" begins"));
            boot.begins.extend(step.map(|step| (step.to_owned(), at_ms)));
        }
    }
    boots.extend(open);
    boots
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
        assert_eq!(boots[0].first_line_ms, Some(1_795_522_810_585));
        assert_eq!(boots[0].begins, [("claim".to_owned(), 1_795_522_814_130)]);
        assert_eq!(boots[1].kernel_ms, 1_795_522_856_693 - 4_368);
    }

    #[test]
    fn a_clock_that_starts_again_is_another_boot_even_without_a_loader_s_word() {
        let text = "5000 [    4.000000] muster: a\n9000 [    2.000000] muster: b\n";
        assert_eq!(boots(text).iter().map(|boot| boot.kernel_ms).collect::<Vec<_>>(), [1000, 7000]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(([0-9]{0,22} )?(\\[ *[0-9]{0,22}\\.[0-9]{5,7}\\] )?.*\n){0,6}") {
            let _ = boots(&text);
        }
    }
}
