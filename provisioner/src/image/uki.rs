//! Unified kernel images: sections appended to a systemd EFI stub (UAPI.5, PE/COFF specification).
//!
//! Addresses are computed from sizes, stamps are zero, the symbol table is cut: the same parts give the same bytes.
//! The stub's own sections are not touched. Signing is somebody else's step.

use super::pe::{self, Layout, PeError, Section};

/// What goes into a UKI, in the stub's own words.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub stub: &'a [u8],
    pub os_release: &'a str,
    pub command_line: &'a str,
    /// Kernel release as `uname -r` says it.
    pub uname: &'a str,
    /// Archives, each ended and padded (see [`initrd`]).
    pub initrd: &'a [u8],
    pub linux: &'a [u8],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    #[error("the stub cannot be read")]
    Stub(#[source] PeError),
    #[error("the stub has a section `{name}` already: this is a UKI, not a stub")]
    NotAStub { name: String },
    #[error("nothing was given for section `{name}`")]
    Empty { name: &'static str },
    #[error("the stub's headers have room for {room} more sections, {need} are needed")]
    NoRoom { room: usize, need: usize },
    #[error("the image would be larger than the 2 GiB that PE addresses reach")]
    TooLarge,
}

/// Archives one after the other in one `.initrd` section: the kernel unpacks them all, later files win.
pub fn initrd(archives: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::with_capacity(archives.iter().map(|archive| archive.len() + 4).sum());
    for archive in archives {
        all.extend_from_slice(archive);
        super::cpio::pad4(&mut all);
    }
    all
}

pub fn compose(parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let layout = pe::layout(parts.stub).map_err(UkiError::Stub)?;
    // `.linux` last: the kernel may use memory behind its section while it unpacks itself.
    let added: [(&'static str, &[u8]); 5] = [
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", parts.command_line.as_bytes()),
        (".uname", parts.uname.as_bytes()),
        (".initrd", parts.initrd),
        (".linux", parts.linux),
    ];
    if let Some(taken) =
        layout.sections.iter().find(|section| added.iter().any(|(name, _)| *name == section.name))
    {
        return Err(UkiError::NotAStub { name: taken.name.clone() });
    }
    if let Some((name, _)) = added.iter().find(|(_, content)| content.is_empty()) {
        return Err(UkiError::Empty { name });
    }
    if layout.room < added.len() {
        return Err(UkiError::NoRoom { room: layout.room, need: added.len() });
    }
    append(parts.stub, &layout, &added).ok_or(UkiError::TooLarge)
}

/// `None` where an address leaves the 31 bits that firmware handles as signed.
fn append(stub: &[u8], layout: &Layout, added: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let total: usize = added.iter().map(|(_, content)| content.len() + layout.file_alignment as usize).sum();
    let mut image = Vec::with_capacity(stub.len() + total);
    // Behind the last section lie symbols that no section lists; they are useless at run time.
    image.extend_from_slice(stub.get(..layout.end_of_sections)?);
    let page = layout.section_alignment.max(4096);
    let mut address = layout.end_of_addresses;
    let mut header = layout.next_header;
    let mut image_size = 0;
    for (name, content) in added {
        address = address.checked_next_multiple_of(page)?;
        image.resize(image.len().next_multiple_of(layout.file_alignment as usize), 0);
        let section = Section {
            name: (*name).to_owned(),
            address,
            // The exact length: the stub takes the kernel's, the initrd's and the text's size from it.
            bytes: u32::try_from(content.len()).ok()?,
            stored_at: u32::try_from(image.len()).ok()?,
            stored_bytes: u32::try_from(content.len().next_multiple_of(layout.file_alignment as usize))
                .ok()?,
        };
        image.extend_from_slice(content);
        image.resize(section.stored_at as usize + section.stored_bytes as usize, 0);
        pe::write_section(&mut image, header, &section);
        header += pe::SECTION_HEADER;
        address = address.checked_add(section.bytes)?;
        image_size = address.checked_next_multiple_of(layout.section_alignment)?;
    }
    if image_size > i32::MAX as u32 {
        return None;
    }
    pe::finish(&mut image, layout, u16::try_from(layout.sections.len() + added.len()).ok()?, image_size);
    Some(image)
}

/// One section of a UKI, for those who look into one (release check, kexec of a fetched image).
pub fn section<'a>(image: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, PeError> {
    let layout = pe::layout(image)?;
    let found = layout.sections.iter().find(|section| section.name == name);
    Ok(found.and_then(|section| {
        let from = section.stored_at as usize;
        image.get(from..from + section.bytes.min(section.stored_bytes) as usize)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pe::fake_stub;
    use proptest::prelude::*;

    fn parts<'a>(stub: &'a [u8], initrd: &'a [u8], linux: &'a [u8]) -> Parts<'a> {
        Parts {
            stub,
            os_release: "ID=muster\n",
            command_line: "console=tty0",
            uname: "6.12.0",
            initrd,
            linux,
        }
    }

    #[test]
    fn every_section_is_read_back_with_its_exact_bytes() {
        let stub = fake_stub(3, 16);
        let uki = compose(&parts(&stub, b"first cpio", &[7; 5000])).unwrap();
        assert_eq!(section(&uki, ".osrel").unwrap(), Some(&b"ID=muster\n"[..]));
        assert_eq!(section(&uki, ".cmdline").unwrap(), Some(&b"console=tty0"[..]));
        assert_eq!(section(&uki, ".uname").unwrap(), Some(&b"6.12.0"[..]));
        assert_eq!(section(&uki, ".initrd").unwrap(), Some(&b"first cpio"[..]));
        assert_eq!(section(&uki, ".linux").unwrap(), Some(&[7; 5000][..]));
        assert_eq!(section(&uki, ".ucode").unwrap(), None);
    }

    #[test]
    fn the_stubs_own_bytes_stay_and_what_lies_behind_its_sections_goes() {
        let mut stub = fake_stub(2, 16);
        let end = stub.len();
        let code = stub[end - 0x400..].to_vec();
        stub.extend_from_slice(b"symbols nobody lists");
        let uki = compose(&parts(&stub, b"i", b"l")).unwrap();
        assert_eq!(uki[end - 0x400..end], code);
        assert!(!uki.windows(7).any(|window| window == b"symbols"));
    }

    #[test]
    fn a_uki_is_not_taken_for_a_stub() {
        let uki = compose(&parts(&fake_stub(1, 16), b"i", b"l")).unwrap();
        let again = compose(&parts(&uki, b"i", b"l"));
        assert_eq!(again, Err(UkiError::NotAStub { name: ".osrel".into() }));
    }

    #[test]
    fn too_few_free_headers_are_refused() {
        let refused = compose(&parts(&fake_stub(3, 4), b"i", b"l"));
        assert_eq!(refused, Err(UkiError::NoRoom { room: 4, need: 5 }));
    }

    #[test]
    fn an_empty_part_is_named() {
        assert_eq!(compose(&parts(&fake_stub(3, 16), b"", b"l")), Err(UkiError::Empty { name: ".initrd" }));
    }

    #[test]
    fn archives_start_at_multiples_of_four() {
        assert_eq!(initrd(&[b"abcde", b"", b"fg"]), b"abcde\0\0\0fg\0\0");
    }

    proptest! {
        #[test]
        fn any_sizes_give_a_valid_image_and_the_same_one_twice(
            own in 1_usize..6,
            initrd in proptest::collection::vec(any::<u8>(), 1..9000),
            linux in proptest::collection::vec(any::<u8>(), 1..9000),
        ) {
            let stub = fake_stub(own, 12);
            let uki = compose(&parts(&stub, &initrd, &linux)).unwrap();
            prop_assert_eq!(&uki, &compose(&parts(&stub, &initrd, &linux)).unwrap());
            let layout = pe::layout(&uki).unwrap();
            prop_assert_eq!(layout.sections.len(), own + 5);
            prop_assert_eq!(layout.stamp, 0);
            prop_assert_eq!(layout.image_bytes, layout.end_of_addresses.next_multiple_of(layout.section_alignment));
            for pair in layout.sections.windows(2) {
                prop_assert!(pair[0].address + pair[0].bytes.max(pair[0].stored_bytes) <= pair[1].address);
                prop_assert!(pair[0].stored_at + pair[0].stored_bytes <= pair[1].stored_at);
            }
            for section in &layout.sections {
                prop_assert_eq!(section.address % layout.section_alignment, 0);
                prop_assert_eq!(section.stored_at % layout.file_alignment, 0);
                prop_assert!((section.stored_at + section.stored_bytes) as usize <= uki.len());
            }
        }

        #[test]
        fn no_stub_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), flips in proptest::collection::vec((0_usize..0x400, any::<u8>()), 0..8)) {
            let _ = compose(&parts(&bytes, b"i", b"l"));
            let mut stub = fake_stub(3, 16);
            for (at, value) in flips {
                stub[at] = value;
            }
            let _ = compose(&parts(&stub, b"i", b"l"));
        }
    }
}
