//! What was typed: the command line of `lab` as a value.

use crate::machine::Arch;
use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub const HELP: &str = "\
usage: lab COMMAND [OPTIONS]

  demo   the seven-machine lab from power-on to ready; what `make demo` runs
      --config FILE       machines and cluster (default examples/cluster.toml)
      --bin DIR           where muster and the artifacts are (default target/dist)
      --only NAME,..      only these machines
      --pull-cable NAME   this machine's cable is out: the demo must say that it is not ready, and fail
      --keep              keep disks and provisioner state in target/demo
      --minutes N         how long all may take to be ready (default 20)
  faults what must not break anything, each story on one machine; what `scripts/test.sh faults` runs
      --config FILE, --bin DIR, --keep (as above)
      --only STORY,..     only these: port-4011, cable, provisioner-killed, three-disks, power-cut, power-cycles,
                          store-lost
      --seed N            what the power cuts lose (default: of the day, and printed)
      --folder DIR        where the stories leave what they saw; cleared first (default target/faults)
  waiting  one machine from the power button to `waiting`, by the host's clock; part of `make bench`
      --config FILE, --bin DIR (as above)
      --runs N            the median of so many is told at last (default 3)
  up     LAN and machines, console lines on stdout, verbs on stdin, until Ctrl-C
      --config FILE, --only NAME,.., --folder DIR
      --provisioner CMD   a shell command that runs at 10.77.0.1 all the time
      --off               leave the machines switched off; `on NAME` starts one
  run [OPTIONS] -- CMD..  like `up`, ends when CMD, run at 10.77.0.1, ends; its exit code is ours
  boot   one machine, one UKI; the console on stdout
      --uki FILE          the EFI program to boot
      --arch ARCH         x86_64 (default) or aarch64
      --direct            the firmware runs it without a network (otherwise UEFI PXE from a dnsmasq)
      --kernel FILE --initrd FILE [--append TEXT]   instead of --uki
      --provisioner CMD   netboot from this shell command, run at 10.77.0.1, instead of dnsmasq
      --mac MAC, --class CLASS, --memory MIB, --cpus N, --disk GIB (0: none), --nvme, --network-first
      --seconds N         give up after so long (default 120)
      --until WORDS       done when the console says this; otherwise runs all the time
      --folder DIR        where disks, consoles and capture go (default target/lab)
";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Help,
    Demo(Demo),
    Faults(Faults),
    Waiting(Waiting),
    Up(Up),
    Boot(Box<Boot>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    pub config: PathBuf,
    pub bin: PathBuf,
    pub only: Vec<String>,
    pub pull_cable: Option<String>,
    pub keep: bool,
    pub limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub config: PathBuf,
    pub bin: PathBuf,
    pub only: Vec<String>,
    pub keep: bool,
    pub seed: Option<u64>,
    pub folder: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub config: PathBuf,
    pub bin: PathBuf,
    pub runs: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    pub config: PathBuf,
    pub only: Vec<String>,
    pub folder: PathBuf,
    pub provisioner: Option<String>,
    pub off: bool,
    /// `run`: ends with this program.
    pub run: Vec<OsString>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    pub what: What,
    pub arch: Arch,
    pub mac: String,
    pub class: Option<String>,
    pub memory_mib: u32,
    pub cpus: u32,
    pub disk_gib: u64,
    pub nvme: bool,
    pub network_first: bool,
    pub limit: Duration,
    pub until: Option<String>,
    pub folder: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Nothing of ours: whatever its disk holds.
    Disk,
    Pxe(PathBuf),
    Provisioner(String),
    Direct(PathBuf),
    Kernel {
        kernel: PathBuf,
        initrd: PathBuf,
        cmdline: String,
    },
}

pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked> {
    let mut parser = lexopt::Parser::from_args(args);
    let command = match parser.next()? {
        None | Some(Long("help") | Short('h')) => return Ok(Asked::Help),
        Some(Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected()).context("a command comes first, see `lab --help`"),
    };
    match &*command {
        "help" => Ok(Asked::Help),
        "demo" => demo(parser),
        "faults" => faults(parser),
        "waiting" => waiting(parser),
        "up" => up(parser, false),
        "run" => up(parser, true),
        "boot" => boot(parser),
        other => bail!("no command `{other}`\nhint: lab --help"),
    }
}

fn demo(mut parser: lexopt::Parser) -> Result<Asked> {
    let mut asked = Demo {
        config: "examples/cluster.toml".into(),
        bin: "target/dist".into(),
        only: Vec::new(),
        pull_cable: None,
        keep: false,
        limit: minutes(20),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") => return Ok(Asked::Help),
            Long("config") => asked.config = parser.value()?.into(),
            Long("bin") => asked.bin = parser.value()?.into(),
            Long("only") => asked.only = names(&parser.value()?.string()?),
            Long("pull-cable") => asked.pull_cable = Some(parser.value()?.string()?),
            Long("keep") => asked.keep = true,
            Long("minutes") => asked.limit = minutes(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Demo(asked))
}

fn faults(mut parser: lexopt::Parser) -> Result<Asked> {
    let mut asked = Faults {
        config: "examples/cluster.toml".into(),
        bin: "target/dist".into(),
        only: Vec::new(),
        keep: false,
        seed: None,
        folder: "target/faults".into(),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") => return Ok(Asked::Help),
            Long("config") => asked.config = parser.value()?.into(),
            Long("bin") => asked.bin = parser.value()?.into(),
            Long("only") => asked.only = names(&parser.value()?.string()?),
            Long("keep") => asked.keep = true,
            Long("seed") => asked.seed = Some(parser.value()?.parse()?),
            Long("folder") => asked.folder = parser.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Faults(asked))
}

fn waiting(mut parser: lexopt::Parser) -> Result<Asked> {
    let mut asked = Waiting { config: "examples/cluster.toml".into(), bin: "target/dist".into(), runs: 3 };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") => return Ok(Asked::Help),
            Long("config") => asked.config = parser.value()?.into(),
            Long("bin") => asked.bin = parser.value()?.into(),
            Long("runs") => asked.runs = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Waiting(asked))
}

fn up(mut parser: lexopt::Parser, run: bool) -> Result<Asked> {
    let mut asked = Up {
        config: "examples/cluster.toml".into(),
        only: Vec::new(),
        folder: "target/lab".into(),
        provisioner: None,
        off: false,
        run: Vec::new(),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") => return Ok(Asked::Help),
            Long("config") => asked.config = parser.value()?.into(),
            Long("only") => asked.only = names(&parser.value()?.string()?),
            Long("folder") => asked.folder = parser.value()?.into(),
            Long("provisioner") => asked.provisioner = Some(parser.value()?.string()?),
            Long("off") => asked.off = true,
            Value(program) if run => {
                asked.run = std::iter::once(program).chain(parser.raw_args()?).collect();
                break;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if run && asked.run.is_empty() {
        bail!("nothing to run\nhint: lab run -- CMD");
    }
    Ok(Asked::Up(asked))
}

fn boot(mut parser: lexopt::Parser) -> Result<Asked> {
    let (mut uki, mut kernel, mut initrd, mut cmdline) = (None, None, None, String::new());
    let (mut direct, mut provisioner) = (false, None);
    let mut asked = Boot {
        what: What::Disk,
        arch: Arch::X86_64,
        mac: "52:54:00:00:00:11".into(),
        class: None,
        memory_mib: 1024,
        cpus: 1,
        disk_gib: 32,
        nvme: false,
        network_first: false,
        limit: Duration::from_secs(120),
        until: None,
        folder: "target/lab".into(),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") => return Ok(Asked::Help),
            Long("uki") => uki = Some(PathBuf::from(parser.value()?)),
            Long("kernel") => kernel = Some(PathBuf::from(parser.value()?)),
            Long("initrd") => initrd = Some(PathBuf::from(parser.value()?)),
            Long("append") => cmdline = parser.value()?.string()?,
            Long("direct") => direct = true,
            Long("provisioner") => provisioner = Some(parser.value()?.string()?),
            Long("arch") => asked.arch = parser.value()?.parse_with(str::parse)?,
            Long("mac") => asked.mac = parser.value()?.string()?,
            Long("class") => asked.class = Some(parser.value()?.string()?),
            Long("memory") => asked.memory_mib = parser.value()?.parse()?,
            Long("cpus") => asked.cpus = parser.value()?.parse()?,
            Long("disk") => asked.disk_gib = parser.value()?.parse()?,
            Long("nvme") => asked.nvme = true,
            Long("network-first") => asked.network_first = true,
            Long("seconds") => asked.limit = Duration::from_secs(parser.value()?.parse()?),
            Long("until") => asked.until = Some(parser.value()?.string()?),
            Long("folder") => asked.folder = parser.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    asked.what = match (uki, kernel, initrd, provisioner) {
        (Some(file), None, None, None) if direct => What::Direct(file),
        (Some(file), None, None, None) => What::Pxe(file),
        (None, Some(kernel), Some(initrd), None) => What::Kernel { kernel, initrd, cmdline },
        (None, None, None, Some(command)) => What::Provisioner(command),
        (None, None, None, None) => What::Disk,
        _ => bail!("one of --uki, --kernel with --initrd, or --provisioner, not several"),
    };
    Ok(Asked::Boot(Box::new(asked)))
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_demo_of_two_machines() {
        let Asked::Demo(demo) =
            asked("demo --only mini-pc-1,dgx-spark-1 --pull-cable dgx-spark-1 --minutes 3").unwrap()
        else {
            panic!("not a demo")
        };
        assert_eq!(demo.only, ["mini-pc-1", "dgx-spark-1"]);
        assert_eq!(demo.pull_cable.as_deref(), Some("dgx-spark-1"));
        assert_eq!(demo.limit, Duration::from_secs(180));
    }

    #[test]
    fn some_stories_with_a_seed() {
        let Asked::Faults(faults) = asked("faults --only power-cut,store-lost --seed 7 --folder f").unwrap()
        else {
            panic!("not the faults")
        };
        assert_eq!(faults.only, ["power-cut", "store-lost"]);
        assert_eq!(faults.seed, Some(7));
        assert_eq!(faults.folder, PathBuf::from("f"));
    }

    #[test]
    fn what_follows_the_dashes_is_the_program_s_own() {
        let Asked::Up(up) = asked("run --only mini-pc-1 -- muster status -o json").unwrap() else {
            panic!("not up")
        };
        assert_eq!(up.run, ["muster", "status", "-o", "json"]);
        assert!(asked("run").is_err());
    }

    #[test]
    fn a_boot_has_one_source() {
        assert!(asked("boot --uki x.efi --provisioner serve").is_err());
        assert!(asked("boot --kernel k").is_err());
        let Asked::Boot(boot) = asked("boot --uki x.efi --direct --arch arm64").unwrap() else {
            panic!("not a boot")
        };
        assert_eq!((boot.what, boot.arch), (What::Direct("x.efi".into()), Arch::Aarch64));
    }
}
