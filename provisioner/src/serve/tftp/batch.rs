//! A window of blocks on its way out: the file's own pages with the headers between them, sent in as few calls as the
//! kernel allows.
//!
//! With UDP segmentation (`UDP_SEGMENT`, Linux 4.18) the kernel cuts one call's bytes into datagrams, which is what makes
//! a window cheap. Where a path cannot do it, each datagram is a call.

use super::{mapped::Mapped, packet::data_header};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};
use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::AsRawFd,
};

/// How windows are sent.
#[derive(Debug)]
pub(super) struct Batch {
    /// Cleared when the kernel said no once.
    segmentation: bool,
}

/// Which blocks of which file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) file: &'a Mapped,
    pub(super) block: u16,
    pub(super) first: u64,
    pub(super) count: u16,
}

impl Default for Batch {
    fn default() -> Self {
        Self { segmentation: true }
    }
}

impl Batch {
    /// Sends the window. A full socket buffer is no error: what is lost is sent again by the timer.
    pub(super) fn send(
        &mut self,
        socket: &impl AsRawFd,
        peer: &SockaddrIn,
        window: Window,
    ) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        let Window { file, block, first, count } = window;
        let stride = usize::from(block) + HEADER;
        // One call carries one IP packet's 65,507 bytes, and 64 segments (UDP_MAX_SEGMENTS) at most.
        let most = u64::try_from((LARGEST_UDP / stride).clamp(1, 64)).unwrap_or(1);
        let (mut next, behind) = (first, first + u64::from(count));
        while next < behind {
            let now = if self.segmentation { most.min(behind - next) } else { 1 };
            match datagrams(fd, peer, file, block, next..next + now) {
                // EIO: the interface has no checksum offload; EINVAL: an old kernel or an odd path.
                Err(Errno::EIO | Errno::EINVAL | Errno::ENOPROTOOPT | Errno::EMSGSIZE) if now > 1 => {
                    self.segmentation = false;
                    continue;
                }
                sent => lossy(sent)?,
            }
            next += now;
        }
        Ok(())
    }
}

/// These blocks in one call.
fn datagrams(
    fd: i32,
    peer: &SockaddrIn,
    file: &Mapped,
    block: u16,
    numbers: Range<u64>,
) -> Result<(), Errno> {
    let data = |number: u64| file.part((number - 1) * u64::from(block), usize::from(block));
    if numbers.end - numbers.start == 1 {
        let header = data_header(numbers.start);
        let parts = [IoSlice::new(&header), IoSlice::new(data(numbers.start))];
        return sendmsg(fd, &parts, &[], MsgFlags::MSG_DONTWAIT, Some(peer)).map(drop);
    }
    let headers: Vec<[u8; HEADER]> = numbers.clone().map(data_header).collect();
    let parts: Vec<IoSlice> = headers
        .iter()
        .zip(numbers)
        .flat_map(|(header, number)| [IoSlice::new(header), IoSlice::new(data(number))])
        .collect();
    let segment = block + HEADER as u16;
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(peer)).map(drop)
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
        let mut batch = Batch { segmentation };
        let mapped = Mapped::new(&file, size as u64).unwrap();
        let window = Window { file: &mapped, block, first, count };
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

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapped = Mapped::new(&file, 8192).unwrap();
        file.set_len(0).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = SockaddrIn::from(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9));
        for count in [1, 4] {
            let window = Window { file: &mapped, block: 1468, first: 1, count };
            let sent = Batch::default().send(&server, &peer, window);
            assert_eq!(sent.unwrap_err().raw_os_error(), Some(Errno::EFAULT as i32));
        }
    }
}
