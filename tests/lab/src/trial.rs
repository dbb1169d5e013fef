//! `lab boot`: one machine, one program, its console on stdout. For whoever wants to see a UKI start.

use crate::arguments::{Boot, What};
use crate::child::Child;
use crate::fleet::{Declared, spec};
use crate::lan::{Depth, Lan, Place, Plan, Pxe, Subnet};
use crate::machine::{Arch, Bus, Direct, Echo, First, Machine, Mark, Spec};
use crate::{clock_ms, stop};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::Arc;

/// Succeeds when the words came, or when none were asked for and the time is over.
pub fn run(asked: &Boot) -> Result<()> {
    let folder = std::path::absolute(&asked.folder)?;
    let lan = Lan::build(&Plan {
        folder: folder.clone(),
        subnet: Subnet::default(),
        foreign_dhcp: true,
        pxe: pxe(asked)?,
        capture: Some(Depth::Sampled),
    })?;
    let provisioner = match &asked.what {
        What::Provisioner(command) => Some(shell(&lan, command, &folder)?),
        What::Disk | What::Pxe(_) | What::Direct(_) | What::Kernel { .. } => None,
    };
    let mut machine = Machine::new(&lan, &folder, machine(asked)?)?;
    let started = clock_ms();
    machine.echo(Echo(Arc::new(move |line| {
        println!("{:8.3} {}", line.at_ms.saturating_sub(started) as f64 / 1000.0, line.text);
    })));
    machine.power_on(&lan)?;
    match &asked.until {
        Some(words) => {
            let line = machine.wait_console_after(Mark::default(), words, asked.limit)?;
            eprintln!("lab: `{words}` after {:.1} s", line.at_ms.saturating_sub(started) as f64 / 1000.0);
        }
        None => {
            machine.wait_off(asked.limit).or_else(|error| {
                // still on when the time is over is what was asked for, a stop is not
                if stop::requested() { Err(error) } else { Ok(()) }
            })?;
        }
    }
    eprintln!("lab: disk was asked {:?}", machine.disk(0).map(|disk| disk.asked()).unwrap_or_default());
    eprintln!("lab: console, capture and disks are in {}", folder.display());
    drop(machine);
    drop(provisioner);
    Ok(())
}

/// A shell command at the provisioner's place, its output in `provisioner.log`.
pub(crate) fn shell(lan: &Lan, command: &str, folder: &Path) -> Result<Child> {
    let mut shell = lan.exec_in(Place::Provisioner, "sh");
    shell.args(["-c", command]);
    Child::start("provisioner", shell, &folder.join("provisioner.log"))
}

fn pxe(asked: &Boot) -> Result<Option<Pxe>> {
    let What::Pxe(file) = &asked.what else { return Ok(None) };
    let file = std::path::absolute(file)?;
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        bail!("{} is no file", file.display())
    };
    file.metadata().with_context(|| format!("UKI {}", file.display()))?;
    let of = |arch| (asked.arch == arch).then(|| name.to_owned());
    Ok(Some(Pxe { folder: folder.into(), x86_64: of(Arch::X86_64), aarch64: of(Arch::Aarch64) }))
}

fn machine(asked: &Boot) -> Result<Spec> {
    let default = match asked.arch {
        Arch::X86_64 => "mini-pc",
        Arch::Aarch64 => "dgx-spark",
    };
    let declared = Declared {
        name: "trial".into(),
        class: asked.class.clone().unwrap_or_else(|| default.into()),
        role: "worker".into(),
        mac: vec![asked.mac.clone()],
        serial: None,
        sandbox: None,
    };
    let mut spec = spec(&declared, 0)?;
    spec.arch = asked.arch;
    spec.memory_mib = asked.memory_mib;
    spec.cpus = asked.cpus;
    spec.first = if asked.network_first { First::Network } else { First::Disk };
    spec.disks.retain(|_| asked.disk_gib > 0);
    for disk in &mut spec.disks {
        disk.size = asked.disk_gib << 30;
        disk.bus = if asked.nvme { Bus::Nvme } else { Bus::Virtio };
    }
    spec.direct = match &asked.what {
        What::Disk | What::Pxe(_) | What::Provisioner(_) => None,
        What::Direct(file) => Some(Direct::Efi(file.clone())),
        What::Kernel { kernel, initrd, cmdline } => {
            Some(Direct::Kernel { kernel: kernel.clone(), initrd: initrd.clone(), cmdline: cmdline.clone() })
        }
    };
    Ok(spec)
}
