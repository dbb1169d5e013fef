//! A LAN of network namespaces for tests: a bridge, hosts on veths, our servers inside one of them.
//!
//! Needs root and iproute2, ethtool, nftables.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use muster::{
    boot::{
        event::{BootEvent, What},
        published::Published,
        table::BootTable,
    },
    serve::{boot_http, dhcp, tftp},
};
use muster_protocol::ids::{Digest, Mac};
use netns::{Netns, Switch};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::{mpsc::UnboundedReceiver, oneshot, watch};

/// Whether tests with namespaces can run here; says why not.
pub fn able(tools: &[&str]) -> bool {
    netns::able(&[&["ethtool", "nft"], tools].concat())
}

/// Runs a command to its end; panics with what it said.
pub fn must(command: &mut Command) -> String {
    netns::must(command)
}

/// A bridge in a namespace of its own. Dropped last: declare it first.
pub struct Lan {
    switch: Switch,
    hosts: u32,
}

impl Lan {
    pub fn new() -> Self {
        let switch = Switch::new().unwrap();
        quiet(switch.hub());
        Self { switch, hosts: 0 }
    }

    /// A host with `eth0` on the bridge; checksum and segmentation are done in software, as DHCP clients that read raw
    /// packets need it, and so that lost packets are single ones.
    pub fn host(&mut self, address: Option<&str>) -> Host {
        self.hosts += 1;
        let port = format!("h{}", self.hosts);
        let netns = self.switch.host(&port).unwrap();
        quiet(&netns);
        let mac = Mac([0x52, 0x54, 0, 0, 0x99, u8::try_from(self.hosts).unwrap()]);
        let host = Host { netns, port, mac };
        self.plug(&host, address);
        host
    }

    /// Takes the host's interface away and gives it a new one: what happens to a USB adapter.
    pub fn replug(&self, host: &Host, address: &str) {
        host.netns.ip(&["link", "del", "eth0"]).unwrap();
        self.plug(host, Some(address));
    }

    fn plug(&self, host: &Host, address: Option<&str>) {
        let Host { netns, port, mac } = host;
        self.switch.plug(netns, port, Some(&mac.to_string())).unwrap();
        let software = ["tx", "off", "rx", "off", "tso", "off", "gso", "off", "tx-udp-segmentation", "off"];
        self.switch.offload(netns, port, &software).unwrap();
        if let Some(address) = address {
            netns.ip(&["addr", "add", address, "dev", "eth0"]).unwrap();
        }
    }

    /// Lets these hosts' cards gather, sum up and segment TCP, as real ones do. UDP is cut by the kernel: not every card can.
    pub fn offload(&self, hosts: &[&Host]) {
        for host in hosts {
            let cards = ["tx", "on", "rx", "on", "tso", "on", "gso", "on", "tx-udp-segmentation", "off"];
            self.switch.offload(&host.netns, &host.port, &cards).unwrap();
        }
    }

    /// From now on so many UDP packets of a hundred are lost, in each direction.
    pub fn lose(&self, percent: u32) {
        let rules = format!(
            "flush ruleset
             table bridge loss {{
                 chain f {{
                     type filter hook forward priority 0;
                     ether type ip ip protocol udp numgen random mod 100 < {percent} drop;
                 }}
             }}
            "
        );
        let mut nft = self.command("nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft takes the rules");
    }

    /// A command on the bridge, for captures.
    pub fn command(&self, program: &str) -> Command {
        self.switch.hub().command(program)
    }
}

/// No IPv6: its own packets are noise in a capture.
fn quiet(netns: &Netns) {
    for which in ["all", "default"] {
        let mut sysctl = netns.command("sysctl");
        let _ = sysctl.args(["-q", "-w", &format!("net.ipv6.conf.{which}.disable_ipv6=1")]).status();
    }
}

/// A machine on the LAN.
#[derive(Clone)]
pub struct Host {
    netns: Netns,
    port: String,
    pub mac: Mac,
}

impl Host {
    pub fn command(&self, program: &str) -> Command {
        self.netns.command(program)
    }

    /// A program that runs until it is dropped.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(program);
        Running::of(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Runs `work` on a thread of this host.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        self.netns.run(work)
    }

    /// Starts all boot servers on this host.
    pub fn serve(&self, table: BootTable, published: &Published) -> Servers {
        let (events, heard) = tokio::sync::mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let published = published.clone();
        let (sender, tables) = watch::channel(table);
        let thread = self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let dhcp_sockets = dhcp::open("eth0").unwrap();
                let tftp_socket = tftp::open("eth0").unwrap();
                let http_socket = boot_http::open("eth0").unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    end = dhcp::run(dhcp_sockets, tables, events.clone()) => panic!("DHCP ended: {end:?}"),
                    end = tftp::run(tftp_socket, published.clone(), events.clone()) => panic!("TFTP ended: {end:?}"),
                    end = boot_http::run(http_socket, published, events) => panic!("HTTP ended: {end:?}"),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Servers { heard, table: sender, stop: Some(stop), thread: Some(thread) }
    }
}

/// Our servers; dropping them ends them, and a panic in them fails the test.
pub struct Servers {
    heard: UnboundedReceiver<BootEvent>,
    pub table: watch::Sender<BootTable>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Servers {
    /// Waits for an event; panics after ten seconds, with what came instead.
    pub fn wait_for(&mut self, mut wanted: impl FnMut(&BootEvent) -> bool) -> BootEvent {
        let deadline = Instant::now() + Duration::from_secs(10);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match runtime.block_on(async { tokio::time::timeout(left, self.heard.recv()).await }) {
                Ok(Some(event)) if wanted(&event) => return event,
                Ok(Some(event)) => others.push(event),
                Ok(None) | Err(_) => panic!("not among {others:#?}"),
            }
        }
    }

    /// What was told so far.
    pub fn told(&mut self) -> Vec<What> {
        let mut told = Vec::new();
        while let Ok(event) = self.heard.try_recv() {
            told.push(event.what);
        }
        told
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(thread::JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A program that ends when this is dropped.
pub struct Running(Child);

impl Running {
    pub fn of(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that is gone when this is dropped.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of pseudo-random bytes, published under its name.
    pub fn publish(&self, published: &Published, name: &str, size: usize) -> Vec<u8> {
        let bytes = noise(size);
        let path = self.path(name);
        std::fs::write(&path, &bytes).unwrap();
        published.publish(name, &path, size as u64, Digest::of(&bytes));
        bytes
    }
}

/// Bytes in which no block is like another (xorshift, fixed seed).
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Where a test keeps what a person may want to look at.
pub fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("netboot");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}
