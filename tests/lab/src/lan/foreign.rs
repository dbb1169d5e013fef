//! The DHCP server that was on the LAN before us: dnsmasq, with addresses and no word about netbooting.

use crate::lan::Subnet;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// A whole PXE server from the same dnsmasq, to try a UKI without Muster. Never used together with the provisioner.
#[derive(Debug, Clone)]
pub struct Pxe {
    pub folder: PathBuf,
    pub x86_64: Option<String>,
    pub aarch64: Option<String>,
}

/// dnsmasq's configuration. `no-ping` because its probe of each address costs three seconds and the LAN is ours.
pub(crate) fn configuration(subnet: &Subnet, pxe: Option<&Pxe>, leases: &Path) -> String {
    let router = subnet.provisioner;
    let mut out = format!(
        "port=0\ninterface=eth0\nbind-interfaces\ndhcp-authoritative\nno-ping\nlog-dhcp\nlog-facility=-\nuser=root\n\
         dhcp-leasefile={}\ndhcp-range={},{},255.255.255.0,1h\n\
         dhcp-option=option:router,{router}\ndhcp-option=option:dns-server,{router}\ndhcp-option=option:ntp-server,{router}\n",
        leases.display(),
        subnet.pool.0,
        subnet.pool.1,
    );
    if let Some(pxe) = pxe {
        let _ = writeln!(out, "enable-tftp\ntftp-root={}", pxe.folder.display());
        let arches: [(&Option<String>, &[u16]); 2] = [(&pxe.x86_64, &[7, 9]), (&pxe.aarch64, &[11])];
        for (file, numbers) in arches {
            for number in numbers {
                if let Some(file) = file {
                    let _ = writeln!(
                        out,
                        "dhcp-match=set:a{number},option:client-arch,{number}\ndhcp-boot=tag:a{number},{file}"
                    );
                }
            }
        }
    }
    out
}

impl Default for Subnet {
    fn default() -> Self {
        let host = |last| Ipv4Addr::new(10, 77, 0, last);
        Self { provisioner: host(1), foreign: host(2), pool: (host(100), host(199)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_foreign_server_says_nothing_about_netbooting() {
        let text = configuration(&Subnet::default(), None, Path::new("/x/leases"));
        for word in ["pxe", "boot", "tftp", "60", "43", "66", "67"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert!(text.contains("dhcp-range=10.77.0.100,10.77.0.199"));
        assert!(text.contains("option:ntp-server,10.77.0.1"));
    }

    #[test]
    fn the_trial_server_names_a_file_for_each_architecture() {
        let pxe = Pxe { folder: "/t".into(), x86_64: Some("x.efi".into()), aarch64: Some("a.efi".into()) };
        let text = configuration(&Subnet::default(), Some(&pxe), Path::new("/x/leases"));
        assert!(text.contains("dhcp-boot=tag:a7,x.efi") && text.contains("dhcp-boot=tag:a11,a.efi"));
    }
}
