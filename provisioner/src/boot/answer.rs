//! The answer to one packet: a reply for a declared machine that netboots, silence with a reason for everybody else.
//!
//! We are a proxy (PXE 2.1 §2.2.3): addresses come from another server, we add where the boot file is. A walk
//! through the exchange is in `docs/boot.md`.

use super::{
    event::What,
    firmware::{Firmware, FirmwareArch, Way, recognise},
    table::{BootFile, BootTable, Path, System},
};
use muster_protocol::{
    dhcp::{Field, MessageType, Op, Options, Packet, code},
    ids::{Arch, Mac},
};
use std::net::Ipv4Addr;

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 67: DHCP.
    Dhcp,
    /// 4011: the boot server that a PXE client asks once it has its address.
    Boot,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Reply(Reply),
    Ignore(Why),
}

/// A packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub packet: Packet,
    pub to: To,
    /// What it tells the client to fetch.
    pub file: BootFile,
}

/// Whom it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Everybody, port 68: the client has no address yet.
    Everybody,
    /// The address and port the request came from.
    Sender,
}

/// Why a packet gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    #[error("not a request")]
    NotRequest,
    #[error("not netbooting")]
    NotNetbooting,
    #[error("`{0}` cannot be the address of one machine")]
    BadMac(Mac),
    #[error("relayed by {0}: only this LAN is served")]
    Relayed(Ipv4Addr),
    #[error("no message type: BOOTP")]
    NoMessage,
    #[error("{0:?} is answered by the address server")]
    NotOurs(MessageType),
    #[error("meant for the server {0}")]
    OtherServer(Ipv4Addr),
    #[error("architecture {0} is not served")]
    Architecture(u16),
    #[error("no UEFI: cannot boot from its disk")]
    NoUefi,
    #[error("not in cluster.toml")]
    Undeclared,
    #[error("keeps its own system")]
    Keeps,
    #[error("no boot image for {0}")]
    NoImage(Arch),
}

/// The answer of the server at `server` to `packet`.
pub fn answer(packet: &Packet, port: Port, table: &BootTable, server: Ipv4Addr) -> Verdict {
    match judge(packet, port, table, server) {
        Ok(reply) => Verdict::Reply(reply),
        Err(why) => Verdict::Ignore(why),
    }
}

/// What the timeline keeps of a packet and its verdict: nothing of a client that is not netbooting.
pub fn told(packet: &Packet, port: Port, verdict: &Verdict) -> Vec<What> {
    let (Op::Request, Some(firmware)) = (packet.op, recognise(&packet.options)) else { return Vec::new() };
    let heard = match (port, packet.options.message()) {
        (Port::Dhcp, Some(MessageType::Discover)) => Some(What::DhcpDiscover { firmware }),
        (Port::Dhcp, Some(MessageType::Request)) => {
            Some(What::DhcpRequest { server: packet.options.address(code::SERVER_ID) })
        }
        (Port::Boot, Some(_)) => Some(What::Request4011 { ciaddr: packet.ciaddr }),
        (Port::Dhcp | Port::Boot, _) => None,
    };
    let done = match verdict {
        Verdict::Reply(reply) => Some(match port {
            Port::Dhcp => What::DhcpOffer { file: reply.file.to_string() },
            Port::Boot => What::Ack4011 { file: reply.file.to_string() },
        }),
        // The client takes its lease from the other server: the usual course, told above.
        Verdict::Ignore(Why::NotOurs(_)) => None,
        Verdict::Ignore(why) => Some(What::Ignored { why: *why }),
    };
    heard.into_iter().chain(done).collect()
}

fn judge(packet: &Packet, port: Port, table: &BootTable, server: Ipv4Addr) -> Result<Reply, Why> {
    if packet.op != Op::Request {
        return Err(Why::NotRequest);
    }
    let firmware = recognise(&packet.options).ok_or(Why::NotNetbooting)?;
    if packet.mac.0[0] & 1 != 0 || packet.mac.0 == [0; 6] {
        return Err(Why::BadMac(packet.mac));
    }
    // A relay's address in a packet would be a way to send our answers to anyone.
    if !packet.giaddr.is_unspecified() {
        return Err(Why::Relayed(packet.giaddr));
    }
    let file = file(packet.mac, firmware, table)?;
    let message = packet.options.message().ok_or(Why::NoMessage)?;
    let path = table.machines.get(&packet.mac).map(|machine| machine.path).unwrap_or_default();
    match (port, firmware.way, message) {
        (Port::Dhcp, Way::Pxe | Way::Http, MessageType::Discover) => {
            let mut offer = reply(packet, MessageType::Offer, firmware.way, server, &file);
            if firmware.way == Way::Pxe && path == Path::Bypass {
                offer.options.set(code::VENDOR, BYPASS);
            }
            Ok(Reply { packet: offer, to: To::Everybody, file })
        }
        // PXE 2.1 asks with a request; some ROMs inform, as WDS lets them.
        (Port::Boot, Way::Pxe, MessageType::Request | MessageType::Inform) => {
            match packet.options.address(code::SERVER_ID) {
                Some(other) if other != server => return Err(Why::OtherServer(other)),
                Some(_) | None => {}
            }
            let to = if packet.ciaddr.is_unspecified() { To::Everybody } else { To::Sender };
            let mut ack = reply(packet, MessageType::Ack, firmware.way, server, &file);
            ack.ciaddr = packet.ciaddr;
            Ok(Reply { packet: ack, to, file })
        }
        (Port::Dhcp | Port::Boot, Way::Pxe | Way::Http, message) => Err(Why::NotOurs(message)),
    }
}

/// What this machine boots.
fn file(mac: Mac, firmware: Firmware, table: &BootTable) -> Result<BootFile, Why> {
    let own = match table.machines.get(&mac).map(|machine| &machine.system) {
        None if !table.discover => return Err(Why::Undeclared),
        None => None,
        Some(System::Keep) => return Err(Why::Keeps),
        Some(System::Muster { image }) => image.clone(),
    };
    let arch = match firmware.arch {
        FirmwareArch::Uefi(arch) => arch,
        FirmwareArch::Bios => return Err(Why::NoUefi),
        FirmwareArch::Other(number) => return Err(Why::Architecture(number)),
    };
    own.or_else(|| table.images.get(&arch).cloned()).ok_or(Why::NoImage(arch))
}

fn reply(asked: &Packet, message: MessageType, way: Way, server: Ipv4Addr, file: &BootFile) -> Packet {
    let mut packet = Packet::new(Op::Reply, asked.xid, asked.mac);
    packet.broadcast = asked.broadcast;
    // EDK2 takes `siaddr` for the TFTP server and for where 4011 is, and only then the server identifier.
    packet.siaddr = server;
    let address = server.to_string();
    let name = match way {
        Way::Pxe => file.to_string(),
        // No redirect, no doubled slash: firmware stumbles over both.
        Way::Http => format!("http://{address}/boot/{file}"),
    };
    // Both places: U-Boot reads the header's field where EDK2 reads option 67. Both names are bounded by BootFile.
    packet.file = Field::new(name.as_bytes()).unwrap_or_default();
    packet
        .options
        .set_message(message)
        .set_address(code::SERVER_ID, server)
        .set(code::VENDOR_CLASS, way.class());
    match way {
        Way::Pxe => {
            packet.sname = Field::new(address.as_bytes()).unwrap_or_default();
            packet.options.set(code::TFTP_SERVER, address.as_bytes());
        }
        Way::Http => {}
    }
    packet.options.set(code::BOOT_FILE, name.as_bytes());
    echo(&asked.options, &mut packet.options);
    packet
}

/// The standard wants the machine's GUID back. ROMs exist that send none and still boot: then there is nothing to
/// echo. One longer than the standard's 17 bytes is not echoed: an answer must not grow with its question.
fn echo(asked: &Options, reply: &mut Options) {
    if let Some(guid) = asked.bytes(code::MACHINE_ID).filter(|guid| guid.len() <= 17) {
        reply.set(code::MACHINE_ID, guid);
    }
}

/// Sub-option 6, discovery control, bit 3: do not discover, take the boot file of this packet; then the end mark.
const BYPASS: &[u8] = &[6, 1, 8, 255];

#[cfg(test)]
mod tests;
