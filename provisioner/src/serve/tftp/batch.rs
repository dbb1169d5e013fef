//! A window of blocks on its way out: read into one buffer with the headers between them, sent in as few calls as the
//! kernel allows.
//!
//! With UDP segmentation (`UDP_SEGMENT`, Linux 4.18) the kernel cuts one buffer into datagrams, which is what makes a
//! window cheap. Where a path cannot do it, the datagrams go out by `sendmmsg`.

use super::packet::data_header;
use nix::{
    errno::Errno,
    sys::{
        socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg, sendto},
        uio::preadv,
    },
};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::{fd::AsRawFd, unix::fs::FileExt},
};

/// A buffer that all transfers of one thread share: blocks are read again when they have to be sent again, so a
/// transfer that waits holds no memory.
#[derive(Debug)]
pub(super) struct Batch {
    buffer: Vec<u8>,
    /// Cleared when the kernel said no once.
    segmentation: bool,
}

/// Which blocks of which file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
    pub(super) block: u16,
    pub(super) first: u64,
    pub(super) count: u16,
}

impl Default for Batch {
    fn default() -> Self {
        Self { buffer: Vec::new(), segmentation: true }
    }
}

impl Batch {
    /// Reads the window and sends it. A full socket buffer is no error: what is lost is sent again by the timer.
    pub(super) fn send(
        &mut self,
        socket: &impl AsRawFd,
        peer: &SockaddrIn,
        window: Window,
    ) -> io::Result<()> {
        let length = self.fill(window)?;
        let stride = usize::from(window.block) + HEADER;
        let bytes = &self.buffer[..length];
        let fd = socket.as_raw_fd();
        if window.count == 1 {
            return lossy(sendto(fd, bytes, peer, MsgFlags::MSG_DONTWAIT).map(drop));
        }
        if self.segmentation {
            match segmented(fd, bytes, stride, peer) {
                // EIO: the interface has no checksum offload; EINVAL: an old kernel or an odd path.
                Err(Errno::EIO | Errno::EINVAL | Errno::ENOPROTOOPT | Errno::EMSGSIZE) => {
                    self.segmentation = false
                }
                sent => return lossy(sent),
            }
        }
        lossy(one_by_one(fd, bytes, stride, peer))
    }

    /// Lays the window out as it goes over the wire; how many bytes that is.
    fn fill(&mut self, window: Window) -> io::Result<usize> {
        let block = usize::from(window.block);
        let stride = block + HEADER;
        let offset = (window.first - 1) * u64::from(window.block);
        let left = window.size.saturating_sub(offset);
        let data = usize::try_from(left).unwrap_or(usize::MAX).min(block * usize::from(window.count));
        let length = data + HEADER * usize::from(window.count);
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let buffer = &mut self.buffer[..length];
        for (number, datagram) in (window.first..).zip(buffer.chunks_mut(stride)) {
            datagram[..HEADER].copy_from_slice(&data_header(number));
        }
        if window.count == 1 {
            window.file.read_exact_at(&mut buffer[HEADER..], offset)?;
            return Ok(length);
        }
        let mut parts: Vec<IoSliceMut> =
            buffer.chunks_mut(stride).map(|datagram| IoSliceMut::new(&mut datagram[HEADER..])).collect();
        let position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        if preadv(window.file, &mut parts, position)? < data {
            // A signal or a file system that gives less: the slow way reads the rest or says what is wrong.
            for (at, datagram) in (offset..).step_by(block).zip(buffer.chunks_mut(stride)) {
                window.file.read_exact_at(&mut datagram[HEADER..], at)?;
            }
        }
        Ok(length)
    }
}

fn segmented(fd: i32, bytes: &[u8], stride: usize, peer: &SockaddrIn) -> Result<(), Errno> {
    // One call carries at most 64 segments (UDP_MAX_SEGMENTS) and one IP packet's 65,507 bytes.
    let most = (LARGEST_UDP / stride).clamp(1, 64) * stride;
    let segment = u16::try_from(stride).map_err(|_| Errno::EINVAL)?;
    for part in bytes.chunks(most) {
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        // A part that is a single datagram needs no cutting, and some kernels refuse a segment longer than it.
        let control = if part.len() > stride { &control[..] } else { &[] };
        sendmsg(fd, &[IoSlice::new(part)], control, MsgFlags::MSG_DONTWAIT, Some(peer))?;
    }
    Ok(())
}

fn one_by_one(fd: i32, bytes: &[u8], stride: usize, peer: &SockaddrIn) -> Result<(), Errno> {
    let parts: Vec<[IoSlice; 1]> = bytes.chunks(stride).map(|datagram| [IoSlice::new(datagram)]).collect();
    let mut headers = MultiHeaders::preallocate(parts.len(), None);
    let peers = vec![Some(*peer); parts.len()];
    sendmmsg(fd, &mut headers, &parts, &peers, [], MsgFlags::MSG_DONTWAIT).map(drop)
}

/// A packet that the network, or our own queue, has no room for is a lost packet.
fn lossy(sent: Result<(), Errno>) -> io::Result<()> {
    match sent {
        Ok(())
        | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR | Errno::ENETDOWN | Errno::ENETUNREACH) => Ok(()),
        // What an ICMP message of an earlier packet left behind.
        Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

const HEADER: usize = 4;
const LARGEST_UDP: usize = 65_507;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::SockaddrLike;
    use std::{io::Write, net::UdpSocket};

    /// Sends `count` blocks of a file of `size` bytes and gives what arrived.
    fn sent(segmentation: bool, size: usize, block: u16, first: u64, count: u16) -> Vec<Vec<u8>> {
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(peer) = client.local_addr().unwrap() else { panic!("not IPv4") };
        let peer = SockaddrIn::from(peer);
        assert!(peer.len() > 0);
        let mut batch = Batch { segmentation, ..Batch::default() };
        let window = Window { file: &file, size: size as u64, block, first, count };
        batch.send(&server, &peer, window).unwrap();
        assert_eq!(batch.segmentation, segmentation, "loopback can segment");
        let mut arrived = Vec::new();
        for _ in 0..count {
            let mut buffer = vec![0; 2000];
            let length = client.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            arrived.push(buffer);
        }
        for (number, datagram) in (first..).zip(&arrived) {
            assert_eq!(datagram[..4], data_header(number));
            let start = (number as usize - 1) * usize::from(block);
            assert_eq!(datagram[4..], bytes[start..size.min(start + usize::from(block))]);
        }
        arrived
    }

    #[test]
    fn a_window_arrives_as_its_datagrams() {
        for segmentation in [true, false] {
            assert_eq!(sent(segmentation, 1468 * 64 + 10, 1468, 1, 64).len(), 64);
            // The last block is short, or empty.
            assert_eq!(sent(segmentation, 1468 * 3 + 7, 1468, 2, 3)[2].len(), 11);
            assert_eq!(sent(segmentation, 1468 * 3, 1468, 1, 4)[3].len(), 4);
            assert_eq!(sent(segmentation, 8 * 5, 8, 5, 2)[1].len(), 4);
            assert_eq!(sent(segmentation, 1000, 512, 2, 1)[0].len(), 492);
            assert_eq!(sent(segmentation, 0, 512, 1, 1)[0].len(), 4);
        }
    }
}
