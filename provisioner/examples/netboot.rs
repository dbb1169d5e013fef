//! Only the boot servers, for trials and benches: every machine named on the command line boots the given files.
//!
//! `netboot INTERFACE [--mac MAC]... [--x86_64 FILE] [--aarch64 FILE] [--bypass] [NAME=FILE]...`
//! Prints each event to stdout; ends with its parent's signal.

use muster::{
    boot::{
        published::Published,
        table::{BootFile, BootTable, Declared, Path, System},
    },
    serve::{boot_http, dhcp, tftp},
};
use muster_protocol::ids::{Arch, Digest, Mac};
use std::error::Error;
use tokio::sync::{mpsc, watch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().ok_or("usage: netboot INTERFACE [--mac MAC]... [NAME=FILE]...")?;
    let published = Published::default();
    let publish = |name: &str, file: &str| -> std::io::Result<()> {
        let bytes = std::fs::read(file)?;
        published.publish(name, file.as_ref(), bytes.len() as u64, Digest::of(&bytes));
        Ok(())
    };
    let mut table = BootTable::default();
    let (mut macs, mut path) = (Vec::<Mac>::new(), Path::Binl);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{argument}` wants a value"));
        match argument.as_str() {
            "--mac" => macs.push(value()?.parse()?),
            "--bypass" => path = Path::Bypass,
            "--x86_64" | "--aarch64" => {
                let arch: Arch = argument.trim_start_matches('-').parse()?;
                let name = BootFile::new(&format!("boot-{arch}.efi"))?;
                publish(name.as_str(), &value()?)?;
                table.images.insert(arch, name);
            }
            other => {
                let (name, file) = other.split_once('=').ok_or(format!("`{other}` is not NAME=FILE"))?;
                publish(name, file)?;
            }
        }
    }
    for (n, mac) in macs.into_iter().enumerate() {
        let node = format!("machine-{n}").parse()?;
        table.machines.insert(mac, Declared { node, system: System::Muster { image: None }, path });
    }
    let (events, mut heard) = mpsc::unbounded_channel();
    let (_table, tables) = watch::channel(table);
    let (dhcp_sockets, tftp_socket, http_socket) =
        (dhcp::open(&interface)?, tftp::open(&interface)?, boot_http::open(&interface)?);
    println!("ready");
    tokio::select! {
        end = dhcp::run(dhcp_sockets, tables, events.clone()) => end?,
        end = tftp::run(tftp_socket, published.clone(), events.clone()) => end?,
        end = boot_http::run(http_socket, published.clone(), events.clone()) => end?,
        () = async { while let Some(event) = heard.recv().await { println!("{event:?}") } } => {}
    }
    Ok(())
}
