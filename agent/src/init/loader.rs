//! Who started this kernel: with its menu's time at zero, a boot loader itself says nothing on a serial console.

use crate::install::bootentry::Variables;
use crate::install::efivars::Efivars;
use anyhow::Context;
use std::path::Path;

/// The Boot Loader Interface's own namespace of EFI variables (systemd.io/BOOT_LOADER_INTERFACE).
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// systemd-boot leaves its name; a UKI that came over the network leaves none.
pub(super) fn tell() -> anyhow::Result<()> {
    let Some(mut variables) = Efivars::at(Path::new("/"), VENDOR) else { return Ok(()) };
    let name = variables.read("LoaderInfo").context("reading the variable LoaderInfo")?;
    match name.as_deref().map(printable) {
        Some(name) => tracing::info!("started by {name}"),
        None => tracing::info!("started by the firmware itself"),
    }
    Ok(())
}

/// UTF-16LE with a zero at its end; anything that does not print is left out.
fn printable(utf16: &[u8]) -> String {
    let units = utf16.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = char::decode_utf16(units).filter_map(Result::ok);
    text.filter(|c| c.is_ascii_graphic() || *c == ' ').take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_name_is_read_without_its_zero_and_without_control_characters() {
        let utf16: Vec<u8> = "systemd-boot 257\u{7}\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(printable(&utf16), "systemd-boot 257");
        assert_eq!(printable(&[0x73]), "");
    }
}
