//! One Ethernet frame as far as a boot needs it: DHCP's DISCOVER, TFTP's read request, and who says something over TCP.

use std::net::Ipv4Addr;

pub(crate) type Mac = [u8; 6];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) destination: Ipv4Addr,
    pub(crate) inner: Inner<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inner<'a> {
    Udp {
        from: u16,
        to: u16,
        payload: &'a [u8],
    },
    Tcp {
        from: u16,
        to: u16,
        opens: bool,
        /// As the IP header says it: the capture may have cut the bytes.
        says: usize,
    },
}

/// `None`: not IPv4, a later fragment, another protocol, or cut within a header.
pub(crate) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let (to, rest) = bytes.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<6>()?;
    let (kind, ip) = rest.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*kind) != 0x0800 || ip.first()? >> 4 != 4 {
        return None;
    }
    let header = usize::from(ip[0] & 0xf) * 4;
    let total = usize::from(word(ip, 2)?);
    let fragment = word(ip, 6)? & 0x1fff;
    if fragment != 0 || header < 20 {
        return None;
    }
    let destination = Ipv4Addr::from(*ip.get(16..)?.first_chunk::<4>()?);
    let rest = ip.get(header..)?;
    let inner = match ip.get(9)? {
        6 => {
            let own = usize::from(rest.get(12)? >> 4) * 4;
            let flags = rest.get(13)?;
            let says = total.checked_sub(header)?.checked_sub(own)?;
            // SYN without ACK
            Inner::Tcp { from: word(rest, 0)?, to: word(rest, 2)?, opens: flags & 0x12 == 0x02, says }
        }
        17 => Inner::Udp { from: word(rest, 0)?, to: word(rest, 2)?, payload: rest.get(8..)? },
        _ => return None,
    };
    Some(Frame { to: *to, from: *from, destination, inner })
}

/// The hardware address of a DISCOVER of a machine that netboots (RFC 2131; option 60 as the PXE specification has it).
pub(crate) fn pxe_discover(payload: &[u8]) -> Option<Mac> {
    let (head, options) = payload.split_at_checked(240)?;
    let is_request = head[0] == 1 && head[1] == 1 && head[2] == 6;
    if !is_request || head[236..240] != [99, 130, 83, 99] {
        return None;
    }
    let is_discover = option(options, 53)? == [1];
    let class = option(options, 60)?;
    let netboots = class.starts_with(b"PXEClient") || class.starts_with(b"HTTPClient");
    (is_discover && netboots).then_some(())?;
    head[28..34].try_into().ok()
}

/// The file of a TFTP read request (RFC 1350).
pub(crate) fn read_request(payload: &[u8]) -> Option<&str> {
    let rest = payload.strip_prefix(&[0, 1])?;
    let name = rest.get(..rest.iter().position(|byte| *byte == 0)?)?;
    std::str::from_utf8(name).ok()
}

fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (&code, rest) = options.split_first()?;
        match code {
            0 => options = rest,
            255 => return None,
            _ => {
                let (&length, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(length))?;
                if code == wanted {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const MACHINE: Mac = [0x52, 0x54, 0, 0, 0, 0x11];
    pub(crate) const PROVISIONER: Mac = [2, 0, 0, 0, 0, 1];

    fn ethernet(from: Mac, to: Mac, protocol: u8, inner: &[u8], says: usize) -> Vec<u8> {
        let mut out = [to, from].concat();
        out.extend([8, 0, 0x45, 0]);
        out.extend((20 + inner.len() as u16 + says as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 77, 0, 151, 10, 77, 0, 1]);
        out.extend(inner);
        out
    }

    pub(crate) fn udp(from: Mac, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut inner = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 0], [0, 0]].concat();
        inner.extend(payload);
        ethernet(from, PROVISIONER, 17, &inner, 0)
    }

    /// A segment of which the capture kept the head alone.
    pub(crate) fn tcp(from: Mac, to: Mac, ports: (u16, u16), flags: u8, says: usize) -> Vec<u8> {
        let mut inner = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        inner.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        ethernet(from, to, 6, &inner, says)
    }

    pub(crate) fn discover(mac: Mac, class: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 240];
        (out[0], out[1], out[2]) = (1, 1, 6);
        out[28..34].copy_from_slice(&mac);
        out[236..240].copy_from_slice(&[99, 130, 83, 99]);
        out.extend([0, 53, 1, 1, 60, class.len() as u8]);
        out.extend(class);
        out.push(255);
        out
    }

    #[test]
    fn a_discover_counts_only_with_the_class_of_a_netboot() {
        assert_eq!(pxe_discover(&discover(MACHINE, b"PXEClient:Arch:00007")), Some(MACHINE));
        assert_eq!(pxe_discover(&discover(MACHINE, b"systemd-networkd")), None);
    }

    #[test]
    fn a_cut_segment_still_says_as_much_as_its_header_says() {
        let bytes = tcp(MACHINE, PROVISIONER, (5000, 7480), 0x18, 739);
        let inner = Inner::Tcp { from: 5000, to: 7480, opens: false, says: 739 };
        assert_eq!(parse(&bytes).unwrap().inner, inner);
        let syn = tcp(MACHINE, PROVISIONER, (5000, 7480), 0x02, 0);
        assert!(matches!(parse(&syn).unwrap().inner, Inner::Tcp { opens: true, says: 0, .. }));
    }

    #[test]
    fn a_read_request_names_its_file() {
        assert_eq!(read_request(b"\0\x01boot-x86_64.efi\0octet\0"), Some("boot-x86_64.efi"));
        assert_eq!(read_request(b"\0\x03\0\x01data"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0..300usize) {
            let _ = (parse(&bytes), pxe_discover(&bytes), read_request(&bytes));
            let real = udp(MACHINE, (68, 67), &discover(MACHINE, b"PXEClient"));
            let _ = parse(&real[..cut.min(real.len())]);
            let _ = pxe_discover(&real[42..][..cut.min(real.len() - 42)]);
        }
    }
}
