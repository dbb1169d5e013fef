//! The packet capture on the bridge: started before anything else, written packet by packet.
//!
//! Bulk data would be gigabytes and would cost the machines their CPU, so by default it is sampled *in the kernel*:
//! of TFTP the first block, every 256th with its acknowledgement and all short ones are kept; of TCP with port 80 full-sized
//! segments only where an HTTP answer begins, and no bare acknowledgements. Everything else is kept whole (up to `SNAP`
//! bytes of each packet): DHCP, requests, heads of answers, SYN and FIN with their sequence numbers, so every stage and
//! every byte count can still be computed from the file.

use crate::child::Child;
use crate::settle;
use anyhow::{Context, Result};
use netns::Netns;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// EDK2's DHCP packets are below 600 bytes, HTTP heads too.
const SNAP: &str = "768";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Bulk data sampled, as described above.
    Sampled,
    /// Everything.
    Full,
}

#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

/// Written for tcpdump; offsets are from the start of the UDP or TCP header.
pub(crate) fn filter(depth: Depth) -> &'static str {
    match depth {
        Depth::Full => "",
        Depth::Sampled => {
            "not (udp and greater 1000 and not port 67 and not port 68 and not port 4011 \
             and udp[8:2] = 3 and udp[10:2] != 1 and udp[11] != 0) \
             and not (udp[4:2] = 12 and udp[8:2] = 4 and udp[11] != 0) \
             and not (tcp src port 80 and greater 1000 and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) = 0 \
             and tcp[((tcp[12:1] & 0xf0) >> 2):4] != 0x48545450) \
             and not (tcp dst port 80 and tcp[tcpflags] = tcp-ack \
             and ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) = 0)"
        }
    }
}

impl Capture {
    pub(crate) fn start(
        netns: &Netns,
        interface: &str,
        file: &Path,
        log: &Path,
        depth: Depth,
    ) -> Result<Self> {
        let mut command = netns.command("tcpdump");
        command.args([
            "-i",
            interface,
            "-s",
            SNAP,
            "-U",
            "-n",
            "-Z",
            "root",
            "-B",
            "16384",
            "--immediate-mode",
            "-w",
        ]);
        command.arg(file).arg(filter(depth));
        let child = Child::start("tcpdump", command, log)?;
        settle("start of the packet capture", || {
            // the file head is written after the socket is open
            file.metadata().is_ok_and(|meta| meta.len() >= 24) || child.ended().is_some()
        })
        .with_context(|| format!("see {}", log.display()))?;
        anyhow::ensure!(child.ended().is_none(), "tcpdump ended at once, see {}", log.display());
        Ok(Self { child, file: file.into() })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends the capture; after this the file does not change.
    pub fn stop(&self) {
        self.child.stop_within(Duration::from_secs(10));
    }
}
