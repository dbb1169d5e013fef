//! A machine's description as QEMU's command line. Pure: what cannot be seen here is not given to QEMU.

use super::firmware::Firmware;
use super::spec::{Arch, Bus, Direct, First, Spec};
use std::path::{Path, PathBuf};

/// Where the machine is connected.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) firmware: Firmware,
    /// One tap for each MAC.
    pub(crate) taps: Vec<String>,
    /// One NBD socket for each disk.
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) qmp: PathBuf,
}

pub(crate) fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86_64",
        Arch::Aarch64 => "qemu-system-aarch64",
    }
}

/// TCG only by default: a /dev/kvm that opens proves nothing, guests have been seen to hang on it for ever.
pub(crate) const ACCEL: &str = "tcg,thread=multi,tb-size=256";

/// A guest that gets few turns of a busy host misses the first ticks of its timer, and the kernel panics with "IO-APIC +
/// timer doesn't work!" (seen on one of seven machines); KVM guests skip that test by themselves. systemd-stub (254 and
/// later) appends this string to the command line of whatever UKI it starts, so the image itself needs no word about the lab.
const KERNEL_EXTRA: &str = "type=11,value=io.systemd.stub.kernel-cmdline-extra=no_timer_check";

pub(crate) fn arguments(spec: &Spec, wiring: &Wiring, accel: &str) -> Vec<String> {
    let mut out = Words(Vec::new());
    out.two("-name", &format!("{},debug-threads=on", spec.name));
    out.two("-accel", accel);
    match spec.arch {
        // no VGA: with one, EDK2 paints every line twice
        Arch::X86_64 => {
            out.two("-machine", "q35,smm=off,vmport=off,i8042=off");
            // plain integer code is what TCG translates best; rdrand because EDK2 and the kernel want early randomness
            out.two("-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand");
        }
        // `max` is three times slower under TCG
        Arch::Aarch64 => {
            out.two("-machine", "virt");
            out.two("-cpu", "cortex-a72");
        }
    }
    out.two("-m", &format!("{}M", spec.memory_mib));
    out.two("-smp", &spec.cpus.to_string());
    for word in ["-nodefaults", "-no-user-config"] {
        out.one(word);
    }
    out.two("-display", "none");
    out.two("-vga", "none");
    out.two("-chardev", "stdio,id=console,signal=off");
    out.two("-serial", "chardev:console");
    out.two("-qmp", &format!("unix:{},server=on,wait=off", path(&wiring.qmp)));
    out.two("-device", "virtio-rng-pci");
    for (unit, (file, readonly)) in
        [(&wiring.firmware.code, "on"), (&wiring.firmware.variables, "off")].iter().enumerate()
    {
        out.two(
            "-drive",
            &format!("if=pflash,format=raw,unit={unit},readonly={readonly},file={}", path(file)),
        );
    }
    for option in spec.hardware.smbios(&spec.serial, &spec.uuid) {
        out.two("-smbios", &option);
    }
    if spec.arch == Arch::X86_64 {
        out.two("-smbios", KERNEL_EXTRA);
    }
    // PXE over IPv6 costs minutes of time-outs before anything else is tried
    out.two("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n");
    // AAVMF waits five seconds in its boot menu otherwise
    out.two("-boot", "menu=on,splash-time=0");

    let disks = spec.disks.len();
    // counted from 1: with -kernel QEMU itself takes 0
    let (disk_index, nic_index) = match spec.first {
        First::Disk => (1, 1 + disks),
        First::Network => (2, 1),
    };
    for (n, (disk, socket)) in spec.disks.iter().zip(&wiring.disks).enumerate() {
        out.two(
            "-blockdev",
            &format!(
                "driver=nbd,node-name=disk{n},server.type=unix,server.path={},discard=unmap",
                path(socket)
            ),
        );
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Nvme => "nvme",
        };
        out.two(
            "-device",
            &format!("{device},drive=disk{n},serial={},bootindex={}", disk.serial, disk_index + n),
        );
    }
    for (n, (mac, tap)) in spec.macs.iter().zip(&wiring.taps).enumerate() {
        out.two("-netdev", &format!("tap,id=net{n},ifname={tap},script=no,downscript=no"));
        let boot = if n == 0 { format!(",bootindex={nic_index}") } else { String::new() };
        // romfile= : without QEMU's iPXE ROM it is EDK2's own PXE client that runs
        out.two("-device", &format!("virtio-net-pci,netdev=net{n},mac={mac},romfile={boot}"));
    }
    match &spec.direct {
        None => {}
        Some(Direct::Efi(file)) => out.two("-kernel", &path(file)),
        Some(Direct::Kernel { kernel, initrd, cmdline }) => {
            out.two("-kernel", &path(kernel));
            out.two("-initrd", &path(initrd));
            out.two("-append", cmdline);
        }
    }
    out.0
}

/// A comma ends a value in QEMU's options; doubled it is one.
fn path(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

struct Words(Vec<String>);

impl Words {
    fn one(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn two(&mut self, option: &str, value: &str) {
        self.0.extend([option.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::hardware::NUC;
    use super::super::spec::DiskSpec;
    use super::*;

    fn spec(first: First) -> Spec {
        let disk = |bus, serial: &str| DiskSpec { bus, size: 1 << 30, serial: serial.into() };
        Spec {
            name: "m".into(),
            arch: Arch::X86_64,
            macs: vec!["52:54:00:00:00:11".into(), "52:54:00:00:00:12".into()],
            hardware: NUC,
            serial: "S1".into(),
            uuid: "u".into(),
            memory_mib: 1024,
            cpus: 1,
            disks: vec![disk(Bus::Virtio, "A"), disk(Bus::Nvme, "B")],
            first,
            clock_error_s: 0,
            direct: None,
        }
    }

    fn line(first: First) -> String {
        let wiring = Wiring {
            firmware: Firmware { code: "/c".into(), variables: "/v".into() },
            taps: vec!["tap0".into(), "tap1".into()],
            disks: vec!["/a".into(), "/b".into()],
            qmp: "/q".into(),
        };
        arguments(&spec(first), &wiring, ACCEL).join(" ")
    }

    #[test]
    fn disks_come_before_the_network_by_default() {
        let line = line(First::Disk);
        assert!(line.contains("virtio-blk-pci,drive=disk0,serial=A,bootindex=1"), "{line}");
        assert!(line.contains("nvme,drive=disk1,serial=B,bootindex=2"), "{line}");
        assert!(line.contains("mac=52:54:00:00:00:11,romfile=,bootindex=3"), "{line}");
        assert!(
            line.contains("mac=52:54:00:00:00:12,romfile= ")
                || line.ends_with("mac=52:54:00:00:00:12,romfile="),
            "{line}"
        );
    }

    #[test]
    fn a_network_first_machine_has_its_nic_before_its_disks() {
        let line = line(First::Network);
        assert!(line.contains("mac=52:54:00:00:00:11,romfile=,bootindex=1"), "{line}");
        assert!(line.contains("serial=A,bootindex=2"), "{line}");
    }
}
