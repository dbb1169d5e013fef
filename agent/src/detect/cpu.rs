//! `/proc/cpuinfo` and `/proc/meminfo`.

use super::text;
use muster_protocol::inventory::Cpu;
use std::path::Path;

pub(super) fn read(root: &Path) -> Cpu {
    let text = std::fs::read(root.join("proc/cpuinfo")).unwrap_or_default();
    parse(&String::from_utf8_lossy(&text))
}

pub(super) fn memory_bytes(root: &Path) -> u64 {
    let text = std::fs::read(root.join("proc/meminfo")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

fn parse(cpuinfo: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut implementer = 0;
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let (key, value) = (key.trim(), value.trim());
        match key {
            "processor" => cpu.threads = cpu.threads.saturating_add(1),
            "model name" if cpu.model.is_empty() => cpu.model = text::clean(value.as_bytes()),
            "CPU implementer" => implementer = hex(value),
            "CPU part" if !parts.contains(&(implementer, hex(value))) && parts.len() < 4 => {
                parts.push((implementer, hex(value)));
            }
            _ => {}
        }
    }
    if cpu.model.is_empty() {
        // arm64 names no model: say which cores, in the order in which the kernel lists them.
        cpu.model = parts.iter().map(|(by, part)| arm_core(*by, *part)).collect::<Vec<_>>().join(" + ");
    }
    cpu
}

fn hex(value: &str) -> u64 {
    u64::from_str_radix(value.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// Implementer and part as in Linux's arch/arm64/include/asm/cputype.h.
fn arm_core(implementer: u64, part: u64) -> String {
    match (implementer, part) {
        (0x41, 0xd08) => "Cortex-A72".into(),
        (0x41, 0xd0c) => "Neoverse-N1".into(),
        (0x41, 0xd40) => "Neoverse-V1".into(),
        (0x41, 0xd49) => "Neoverse-N2".into(),
        (0x41, 0xd4f) => "Neoverse-V2".into(),
        (0x41, 0xd85) => "Cortex-X925".into(),
        (0x41, 0xd87) => "Cortex-A725".into(),
        (by, part) => format!("arm64 {by:#04x}:{part:#05x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_x86_model_and_its_threads_are_read() {
        let cpu = parse(
            "processor\t: 0\nmodel name\t: Intel(R)  Core(TM) i5\nprocessor\t: 1\nmodel name\t: other\n",
        );
        assert_eq!(cpu, Cpu { model: "Intel(R) Core(TM) i5".into(), threads: 2 });
    }

    #[test]
    fn both_kinds_of_core_of_an_arm_machine_are_named() {
        let core = |part| format!("processor : 0\nCPU implementer : 0x41\nCPU part : {part}\n\n");
        let cpu = parse(&[core("0xd87"), core("0xd85"), core("0xd87")].concat());
        assert_eq!(cpu, Cpu { model: "Cortex-A725 + Cortex-X925".into(), threads: 3 });
    }
}
