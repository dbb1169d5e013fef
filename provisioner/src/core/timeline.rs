//! When each stage of each boot was, in wall time: what DHCP and TFTP saw, then what the agent measured since its
//! kernel started.

use super::live::HelloSeen;
use crate::boot::event::What;
use crate::store::rows::{FileDone, StageRow, TRACES, Trace};
use crate::store::{Read, Store, StoreError};
use muster_protocol::ids::Mac;
use muster_protocol::status::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Kept per machine: an install has about twenty, and a handful of boots should be visible.
const KEPT: usize = 200;
/// Longest name of a step, and most stages of one status: a status says what its sender likes.
const STEP_BYTES: usize = 64;
const STAGES: usize = 64;
/// A boot file that ended longer before the kernel's start than this belongs to another boot.
const LOADING_MS: u64 = 180_000;
/// Traces of machines that are not declared are counted elsewhere; this bounds what a flood could do.
const MACHINES: usize = 4096;

/// The last boot attempt of each machine, by MAC.
#[derive(Debug, Default)]
pub struct Traces {
    by_mac: BTreeMap<Mac, Trace>,
    /// TFTP and HTTP know only the address.
    mac_at: BTreeMap<IpAddr, Mac>,
    changed: BTreeSet<Mac>,
}

impl Traces {
    pub(super) fn load(view: &impl Read) -> Result<Self, StoreError> {
        let rows = view.all(TRACES, "")?;
        let by_mac = rows.into_iter().filter_map(|(mac, trace)| Some((mac.parse().ok()?, trace))).collect();
        Ok(Self { by_mac, ..Self::default() })
    }

    pub(super) fn save(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        store.write(|tx| {
            self.changed
                .iter()
                .filter_map(|mac| Some((mac, self.by_mac.get(mac)?)))
                .try_for_each(|(mac, trace)| tx.put(TRACES, &mac.to_string(), trace))
        })?;
        self.changed.clear();
        Ok(())
    }

    pub fn of(&self, macs: &[Mac]) -> Option<&Trace> {
        macs.iter().filter_map(|mac| self.by_mac.get(mac)).max_by_key(|trace| newest(trace))
    }

    /// This address is that machine's now.
    pub fn learn(&mut self, address: IpAddr, mac: Mac) {
        if self.mac_at.len() >= MACHINES && !self.mac_at.contains_key(&address) {
            self.mac_at.clear();
        }
        self.mac_at.insert(address, mac);
    }

    /// One thing that DHCP, TFTP or HTTP saw.
    pub fn note(&mut self, unix_ms: u64, mac: Option<Mac>, from: IpAddr, what: &What) {
        if let (Some(mac), What::Request4011 { ciaddr }) = (mac, what)
            && !ciaddr.is_unspecified()
        {
            self.learn(IpAddr::V4(*ciaddr), mac);
        }
        let Some(mac) = mac.or_else(|| self.mac_at.get(&from).copied()) else { return };
        if self.by_mac.len() >= MACHINES && !self.by_mac.contains_key(&mac) {
            return;
        }
        let trace = self.by_mac.entry(mac).or_default();
        if take(trace, unix_ms, what) {
            self.changed.insert(mac);
        }
    }

    pub(super) fn note_hello(&mut self, unix_ms: u64, mac: Mac) {
        if let Some(trace) = self.by_mac.get_mut(&mac)
            && trace.hello.is_none()
        {
            trace.hello = Some(unix_ms);
            self.changed.insert(mac);
        }
    }
}

/// Tells whether the trace changed.
fn take(trace: &mut Trace, unix_ms: u64, what: &What) -> bool {
    // Artifacts come over the same ports while a machine installs; they are no boot files.
    let boots = |name: &str| name.ends_with(".efi");
    match what {
        // Firmware repeats DISCOVER a few times within one attempt; a later one after a file is a new boot.
        What::DhcpDiscover { .. } => {
            let again = trace.discover.is_some_and(|at| unix_ms.saturating_sub(at) <= 60_000);
            if trace.file_start.is_none() && again {
                return false;
            }
            *trace = Trace { discover: Some(unix_ms), ..Trace::default() };
        }
        What::DhcpOffer { .. } => trace.offer = Some(unix_ms),
        What::DhcpRequest { .. } | What::TftpProbe { .. } => return false,
        What::Request4011 { .. } => trace.request_4011 = Some(unix_ms),
        What::Ack4011 { .. } => trace.ack_4011 = Some(unix_ms),
        What::TftpStart { name } | What::HttpStart { name } if boots(name) => {
            trace.file_start = Some(trace.file_start.unwrap_or(unix_ms));
            trace.file_failed = None;
        }
        What::TftpDone { name, bytes, ms } | What::HttpDone { name, bytes, ms } if boots(name) => {
            trace.file_done =
                Some(FileDone { at_unix_ms: unix_ms, name: name.clone(), bytes: *bytes, ms: *ms });
        }
        What::TftpFailed { name, why } | What::HttpFailed { name, why } if boots(name) => {
            trace.file_failed = Some((unix_ms, format!("{name}: {why}")));
        }
        What::TftpStart { .. }
        | What::HttpStart { .. }
        | What::TftpDone { .. }
        | What::HttpDone { .. }
        | What::TftpFailed { .. }
        | What::HttpFailed { .. } => return false,
        What::Ignored { why } => {
            let why = why.to_string();
            if trace.ignored.len() >= 16 && !trace.ignored.contains_key(&why) {
                return false;
            }
            *trace.ignored.entry(why).or_default() += 1;
        }
    }
    true
}

fn newest(trace: &Trace) -> Option<u64> {
    let file = trace.file_done.as_ref().map(|done| done.at_unix_ms);
    [trace.discover, trace.request_4011, trace.ack_4011, trace.file_start, file].into_iter().flatten().max()
}

/// Adds the stages of one boot that are not there yet. Tells whether there were any.
pub fn add(rows: &mut Vec<StageRow>, boot: &str, kernel_unix_ms: u64, stages: &[Stage]) -> bool {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut new = Vec::new();
    for stage in stages.iter().take(STAGES) {
        let step = &stage.step[..stage.step.floor_char_boundary(STEP_BYTES)];
        let count = counts.entry(step).or_default();
        *count += 1;
        let known = rows.iter().filter(|row| row.boot == boot && row.step == step).count();
        if *count > known {
            new.push(StageRow {
                step: step.into(),
                at_unix_ms: kernel_unix_ms.saturating_add(stage.started_ms),
                ms: stage.ms,
                bytes: stage.bytes,
                boot: boot.into(),
            });
        }
    }
    let changed = !new.is_empty();
    rows.extend(new);
    trim(rows);
    changed
}

/// Adds one stage that the provisioner itself saw, unless the boot has one of that name.
pub fn add_seen(
    rows: &mut Vec<StageRow>,
    boot: &str,
    step: &str,
    at_unix_ms: u64,
    ms: u64,
    bytes: Option<u64>,
) -> bool {
    if rows.iter().any(|row| row.boot == boot && row.step == step) {
        return false;
    }
    rows.push(StageRow { step: step.into(), at_unix_ms, ms, bytes, boot: boot.into() });
    trim(rows);
    true
}

fn trim(rows: &mut Vec<StageRow>) {
    rows.sort_by_key(|row| row.at_unix_ms);
    let extra = rows.len().saturating_sub(KEPT);
    rows.drain(..extra);
}

/// A file that an earlier boot came from: the next one may follow within minutes, from the disk.
fn is_anothers(rows: &[StageRow], boot: &str, at_unix_ms: u64) -> bool {
    rows.iter().any(|row| row.step == "boot-file" && row.at_unix_ms == at_unix_ms && row.boot != boot)
}

/// What came before the agent's first word: DHCP, boot file, kernel, and the time until it was let go.
pub fn add_netboot(
    rows: &mut Vec<StageRow>,
    boot: &str,
    kernel_unix_ms: u64,
    trace: Option<&Trace>,
    hello: Option<&HelloSeen>,
    first_stage_ms: Option<u64>,
) -> bool {
    let mut changed = false;
    if let Some(trace) = trace
        && let Some(file) = &trace.file_done
        && file.at_unix_ms <= kernel_unix_ms + 5_000
        && kernel_unix_ms.saturating_sub(file.at_unix_ms) <= LOADING_MS
        && !is_anothers(rows, boot, file.at_unix_ms.saturating_sub(file.ms))
    {
        if let Some(discover) = trace.discover {
            let end = trace.ack_4011.or(trace.offer).unwrap_or(discover);
            changed |= add_seen(rows, boot, "dhcp", discover, end.saturating_sub(discover), None);
        }
        let start = file.at_unix_ms.saturating_sub(file.ms);
        changed |= add_seen(rows, boot, "boot-file", start, file.ms, Some(file.bytes));
    }
    if let Some(ms) = first_stage_ms {
        changed |= add_seen(rows, boot, "kernel", kernel_unix_ms, ms, None);
    }
    if let Some(hello) = hello.filter(|hello| hello.kernel_unix_ms.abs_diff(kernel_unix_ms) < 5_000) {
        if let Some(first) = first_stage_ms {
            let agent = kernel_unix_ms + first;
            changed |= add_seen(rows, boot, "agent", agent, hello.first_unix_ms.saturating_sub(agent), None);
        }
        if let Some(let_go) = hello.let_go_unix_ms {
            let ms = let_go.saturating_sub(hello.first_unix_ms);
            changed |= add_seen(rows, boot, "admitted", hello.first_unix_ms, ms, None);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::firmware::{Firmware, FirmwareArch, Way};

    fn stage(step: &str, started_ms: u64) -> Stage {
        Stage { step: step.into(), started_ms, ms: 5, bytes: None }
    }

    fn discover() -> What {
        let arch = FirmwareArch::Uefi(muster_protocol::ids::Arch::X86_64);
        What::DhcpDiscover { firmware: Firmware { way: Way::Pxe, arch } }
    }

    fn start() -> What {
        What::TftpStart { name: "x.efi".into() }
    }

    #[test]
    fn a_stage_is_dated_once_and_not_again_with_the_next_report() {
        let mut rows = Vec::new();
        assert!(add(&mut rows, "b1", 1_000, &[stage("claim", 10)]));
        assert!(!add(&mut rows, "b1", 990, &[stage("claim", 10)]), "a better clock estimate moves nothing");
        assert!(add(&mut rows, "b1", 1_000, &[stage("claim", 10), stage("claim", 30), stage("wipe", 40)]));
        assert!(add(&mut rows, "b2", 9_000, &[stage("claim", 10)]));
        let seen: Vec<_> = rows.iter().map(|row| (row.step.as_str(), row.at_unix_ms)).collect();
        assert_eq!(seen, [("claim", 1_010), ("claim", 1_030), ("wipe", 1_040), ("claim", 9_010)]);
    }

    #[test]
    fn a_status_without_measure_leaves_little() {
        let long = "ä".repeat(1 << 19);
        let stages: Vec<Stage> = (0..10_000).map(|_| stage(&long, u64::MAX)).collect();
        let mut rows = Vec::new();
        assert!(add(&mut rows, "b", 1_000, &stages));
        assert!(!add(&mut rows, "b", 1_000, &stages), "known now");
        assert!(rows.len() <= STAGES && rows.iter().all(|row| row.step.len() <= STEP_BYTES));
    }

    #[test]
    fn the_boot_file_of_another_boot_is_not_counted() {
        let trace = Trace {
            discover: Some(100),
            ack_4011: Some(300),
            file_done: Some(FileDone { at_unix_ms: 5_000, name: "x".into(), bytes: 7, ms: 4_000 }),
            ..Trace::default()
        };
        let mut rows = Vec::new();
        assert!(add_netboot(&mut rows, "b", 6_000, Some(&trace), None, Some(2_000)));
        let steps: Vec<_> = rows.iter().map(|row| row.step.as_str()).collect();
        assert_eq!(steps, ["dhcp", "boot-file", "kernel"]);
        let mut later = Vec::new();
        add_netboot(&mut later, "c", 600_000, Some(&trace), None, None);
        assert!(later.is_empty());
    }

    #[test]
    fn tftp_finds_the_machine_by_its_address() {
        let (mac, ip) = (Mac([2, 0, 0, 0, 0, 1]), IpAddr::from([10, 0, 0, 7]));
        let mut traces = Traces::default();
        traces.note(1, Some(mac), ip, &discover());
        traces.note(2, None, ip, &start());
        assert_eq!(traces.of(&[mac]).unwrap().file_start, None, "the address is not known yet");
        traces.learn(ip, mac);
        traces.note(3, None, ip, &What::TftpDone { name: "x.efi".into(), bytes: 1, ms: 1 });
        assert!(traces.of(&[mac]).unwrap().file_done.is_some());
    }

    #[test]
    fn a_new_discover_after_a_file_is_a_new_boot() {
        let (mac, ip) = (Mac([2, 0, 0, 0, 0, 1]), IpAddr::from([10, 0, 0, 7]));
        let mut traces = Traces::default();
        traces.note(1, Some(mac), ip, &discover());
        traces.note(4_000, Some(mac), ip, &discover());
        assert_eq!(traces.of(&[mac]).unwrap().discover, Some(1), "a repetition");
        traces.note(5_000, Some(mac), ip, &start());
        traces.note(9_000, Some(mac), ip, &discover());
        assert_eq!(traces.of(&[mac]).unwrap().discover, Some(9_000));
    }
}
