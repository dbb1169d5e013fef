//! Link state, addresses and routes over netlink. The only user of `rtnetlink`, whose API moves with every release.

use futures_util::TryStreamExt;
use muster_protocol::ids::Cidr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr};
use tokio::task::JoinHandle;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] std::io::Error),
    #[error("cannot {what} on interface {interface}")]
    Refused { what: &'static str, interface: u32, source: Box<rtnetlink::Error> },
}

/// The kernel's network configuration; needs CAP_NET_ADMIN and a running tokio.
pub struct Links {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Links {
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Open)?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    pub async fn up(&self, interface: u32) -> Result<(), LinkError> {
        let up = LinkUnspec::new_with_index(interface).up().build();
        self.handle.link().set(up).execute().await.map_err(refused("set the link up", interface))
    }

    /// Makes `address` the interface's only IPv4 address, and `gateway` its default route. A lower `metric` wins.
    pub async fn configure(
        &self,
        interface: u32,
        address: Cidr,
        gateway: Option<Ipv4Addr>,
        metric: u32,
    ) -> Result<(), LinkError> {
        self.clear(interface, Some(address)).await?;
        let add = self.handle.address().add(interface, IpAddr::V4(address.address), address.prefix);
        add.replace().execute().await.map_err(refused("set the address", interface))?;
        // A gateway beyond the link would make the kernel refuse; a lease may say so, we then have no default route.
        let Some(gateway) = gateway.filter(|gateway| address.contains(*gateway)) else { return Ok(()) };
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(interface)
            .priority(metric)
            .build();
        let add = self.handle.route().add(route).replace();
        add.execute().await.map_err(refused("set the default route", interface))
    }

    /// Takes every IPv4 address but `keep`; routes over them go with them.
    pub async fn clear(&self, interface: u32, keep: Option<Cidr>) -> Result<(), LinkError> {
        let mut found = self.handle.address().get().set_link_index_filter(interface).execute();
        let mut surplus = Vec::new();
        while let Some(message) = found.try_next().await.map_err(refused("list the addresses", interface))? {
            let kept = keep.is_some_and(|keep| {
                message.header.prefix_len == keep.prefix
                    && message.attributes.contains(&AddressAttribute::Address(IpAddr::V4(keep.address)))
            });
            if message.header.family == AddressFamily::Inet && !kept {
                surplus.push(message);
            }
        }
        for message in surplus {
            let del = self.handle.address().del(message);
            del.execute().await.map_err(refused("take an address", interface))?;
        }
        Ok(())
    }
}

fn refused(what: &'static str, interface: u32) -> impl Fn(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Refused { what, interface, source: Box::new(source) }
}
