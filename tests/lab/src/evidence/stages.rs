//! When each stage of a machine's boots began, by what stood on the wire and on its serial line alone.
//!
//! | stage | outside evidence |
//! |---|---|
//! | dhcp | packet: the first DISCOVER with a netboot class since the last boot file |
//! | boot-file | packet: the read request that the file was sent for (an earlier one only asks for its size) |
//! | kernel | console: host clock less the kernel's own stamp, the smallest of its first 15 s |
//! | agent | console: the stamp of PID 1's first line, on the host's clock |
//! | admitted | packet: on the boot's first connection to 7480 that came so far, the provisioner's third turn (handshake, tickets, answer) |
//! | claim … reboot, boot, node, kata, k3s, joined, ready | console: the stamp of the line `step NAME begins`, on the host's clock |

use super::frame::{Frame, Inner, Mac, parse, pxe_discover, read_request};
use super::pcap::packets;
use super::spoken::Boot;

/// TLS of agents.
const API: u16 = 7480;
/// Certificate and finished, session tickets, then the answer to the first request.
const ANSWER: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Packet,
    Console,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Began {
    pub(crate) step: String,
    pub(crate) at_ms: u64,
    pub(crate) by: Source,
}

/// What one machine put on the wire, and was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wire {
    discovers: Vec<u64>,
    reads: Vec<Read>,
    connections: Vec<Connection>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    at_ms: u64,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    port: u16,
    opened_ms: u64,
    /// Who spoke last.
    theirs: bool,
    /// When the other side began to speak after we had.
    turns: Vec<u64>,
}

/// `None`: the file is no capture.
pub(crate) fn wire(capture: &[u8], macs: &[Mac]) -> Option<Wire> {
    let mut wire = Wire::default();
    for packet in packets(capture)? {
        if let Some(frame) = parse(packet.frame) {
            wire.take(packet.at_ms, &frame, macs);
        }
    }
    Some(wire)
}

impl Wire {
    fn take(&mut self, at_ms: u64, frame: &Frame<'_>, macs: &[Mac]) {
        let ours = macs.contains(&frame.from);
        match frame.inner {
            Inner::Udp { to: 67, payload, .. } if ours => {
                if pxe_discover(payload).is_some_and(|mac| macs.contains(&mac)) {
                    self.discovers.push(at_ms);
                }
            }
            Inner::Udp { from, to: 69, payload } if ours => {
                if read_request(payload).is_some_and(|name| name.ends_with(".efi")) {
                    self.reads.push(Read { at_ms, port: from });
                }
            }
            Inner::Tcp { from, to: API, opens: true, .. } if ours => {
                self.connections.push(Connection {
                    port: from,
                    opened_ms: at_ms,
                    theirs: false,
                    turns: Vec::new(),
                });
            }
            Inner::Tcp { from, to: API, says: 1.., .. } if ours => self.turn(from, at_ms, false),
            Inner::Tcp { from: API, to, says: 1.., .. } if macs.contains(&frame.to) => {
                self.turn(to, at_ms, true);
            }
            Inner::Udp { .. } | Inner::Tcp { .. } => {}
        }
    }

    fn turn(&mut self, port: u16, at_ms: u64, theirs: bool) {
        let Some(connection) = self.connections.iter_mut().rev().find(|known| known.port == port) else {
            return;
        };
        if theirs && !connection.theirs && connection.turns.len() < ANSWER {
            connection.turns.push(at_ms);
        }
        connection.theirs = theirs;
    }

    /// First DISCOVER and read request of each boot from the network.
    fn netboots(&self) -> Vec<(Option<u64>, u64)> {
        let mut out = Vec::new();
        let mut since = 0;
        let mut reads = self.reads.iter().peekable();
        while let Some(first) = reads.next() {
            let mut last = first;
            // the same port again is a repetition; a DISCOVER in between makes it another boot
            while let Some(next) = reads.peek() {
                let between = |at: &u64| *at > last.at_ms && *at < next.at_ms;
                if self.discovers.iter().any(between) {
                    break;
                }
                if next.port != last.port {
                    last = next;
                }
                reads.next();
            }
            let discover = self.discovers.iter().copied().find(|at| *at >= since && *at <= first.at_ms);
            out.push((discover, last.at_ms));
            since = last.at_ms;
        }
        out
    }
}

/// All that both sources say, in the order of time.
pub(crate) fn stages(wire: &Wire, boots: &[Boot]) -> Vec<Began> {
    let mut out = Vec::new();
    let mut say = |step: &str, at_ms, by| out.push(Began { step: step.to_owned(), at_ms, by });
    for (discover, read) in wire.netboots() {
        if let Some(at_ms) = discover {
            say("dhcp", at_ms, Source::Packet);
        }
        say("boot-file", read, Source::Packet);
    }
    for (n, boot) in boots.iter().enumerate() {
        say("kernel", boot.kernel_ms, Source::Console);
        if let Some(at_ms) = boot.first_line_ms {
            say("agent", at_ms, Source::Console);
        }
        let ends = boots.get(n + 1).map_or(u64::MAX, |next| next.kernel_ms);
        // One that a busy provisioner did not answer in time is followed by another.
        let mut of_boot =
            wire.connections.iter().filter(|known| (boot.kernel_ms..ends).contains(&known.opened_ms));
        if let Some(at_ms) = of_boot.find_map(|known| known.turns.get(ANSWER - 1).copied()) {
            say("admitted", at_ms, Source::Packet);
        }
        for (step, at_ms) in boot.begins.iter().filter(|(step, _)| step != "admitted") {
            say(step, *at_ms, Source::Console);
        }
    }
    out.sort_by_key(|began| began.at_ms);
    out
}

/// `52:54:00:00:00:11`
pub(crate) fn mac(text: &str) -> Option<Mac> {
    let mut out = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut out {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::{MACHINE, PROVISIONER, discover, tcp, udp};
    use super::*;

    fn wire_of(frames: &[(u64, Vec<u8>)]) -> Wire {
        let mut wire = Wire::default();
        for (at_ms, bytes) in frames {
            wire.take(*at_ms, &parse(bytes).unwrap(), &[MACHINE]);
        }
        wire
    }

    fn times(wire: &Wire, boots: &[Boot]) -> Vec<(String, u64)> {
        stages(wire, boots).into_iter().map(|began| (began.step, began.at_ms)).collect()
    }

    fn said(steps: &[(&str, u64)]) -> Vec<(String, u64)> {
        steps.iter().map(|(step, at)| ((*step).to_owned(), *at)).collect()
    }

    #[test]
    fn a_netboot_starts_with_its_first_discover_and_the_request_that_was_served() {
        let ask = || udp(MACHINE, (68, 67), &discover(MACHINE, b"PXEClient:Arch:00007"));
        let read = |port| udp(MACHINE, (port, 69), b"\0\x01boot-x86_64.efi\0octet\0");
        let wire = wire_of(&[
            (100, ask()),
            (4000, ask()),
            (5000, read(1815)),
            (5100, read(1816)),
            (6100, read(1816)),
            (90_000, ask()),
            (91_000, read(1900)),
        ]);
        let seen = times(&wire, &[]);
        assert_eq!(
            seen,
            said(&[("dhcp", 100), ("boot-file", 5100), ("dhcp", 90_000), ("boot-file", 91_000)])
        );
    }

    #[test]
    fn the_third_turn_of_a_boot_s_first_answered_connection_is_the_answer() {
        let ours = |says| tcp(MACHINE, PROVISIONER, (5000, 7480), 0x18, says);
        let theirs = |says| tcp(PROVISIONER, MACHINE, (7480, 5000), 0x18, says);
        let syn = tcp(MACHINE, PROVISIONER, (5000, 7480), 0x02, 0);
        let unanswered = tcp(MACHINE, PROVISIONER, (4999, 7480), 0x02, 0);
        let hello = tcp(MACHINE, PROVISIONER, (4999, 7480), 0x18, 233);
        let wire = wire_of(&[
            (190, unanswered),
            (191, hello),
            (200, syn),
            (210, ours(233)),
            (211, theirs(0)),
            (212, theirs(888)),
            (220, ours(739)),
            (221, theirs(184)),
            (230, ours(521)),
            (240, theirs(462)),
            (250, ours(259)),
            (251, theirs(140)),
        ]);
        let boot = Boot {
            kernel_ms: 150,
            first_line_ms: Some(180),
            begins: said(&[("admitted", 241), ("claim", 245)]),
        };
        assert_eq!(
            times(&wire, &[boot]),
            said(&[("kernel", 150), ("agent", 180), ("admitted", 240), ("claim", 245)])
        );
    }

    #[test]
    fn a_mac_is_read_as_it_is_written() {
        assert_eq!(mac("52:54:00:00:00:11"), Some(MACHINE));
        assert_eq!(mac("52:54:00:00:00"), None);
        assert_eq!(mac("52:54:00:00:00:11:22"), None);
    }
}
