//! Just enough PE/COFF to append sections to an EFI program and to read them back.
//!
//! Offsets and field names follow Microsoft's "PE Format", sections "COFF File Header", "Optional Header" and
//! "Section Table". Only PE32+ is known: there is no 32-bit firmware in the fleet.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    #[error("the file has {bytes} bytes and ends inside its {what}")]
    Short { what: &'static str, bytes: usize },
    #[error("no `{magic}` where a PE file has one")]
    Magic { magic: &'static str },
    #[error("the {what} is {value:#x}, which no EFI program has")]
    Value { what: &'static str, value: u64 },
    #[error("section `{name}` reaches beyond the end of the file")]
    Section { name: String },
}

/// Where things are in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub section_alignment: u32,
    pub file_alignment: u32,
    pub image_bytes: u32,
    pub stamp: u32,
    pub sections: Vec<Section>,
    /// How many more section headers fit before the first section's bytes.
    pub room: usize,
    /// File offset of the next section header.
    pub next_header: usize,
    /// First address behind all sections.
    pub end_of_addresses: u32,
    /// First file offset behind all sections.
    pub end_of_sections: usize,
    coff: usize,
    optional: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub address: u32,
    pub bytes: u32,
    pub stored_at: u32,
    pub stored_bytes: u32,
}

pub fn layout(file: &[u8]) -> Result<Layout, PeError> {
    if file.get(..2) != Some(b"MZ") {
        return Err(PeError::Magic { magic: "MZ" });
    }
    let pe = u32_at(file, 0x3c, "DOS header")? as usize;
    if file.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(PeError::Magic { magic: "PE" });
    }
    let coff = pe + 4;
    let optional = coff + 20;
    let count = u16_at(file, coff + 2, "COFF header")? as usize;
    let stamp = u32_at(file, coff + 4, "COFF header")?;
    let optional_bytes = u16_at(file, coff + 16, "COFF header")? as usize;
    let table = optional + optional_bytes;
    if u16_at(file, optional, "optional header")? != 0x20b {
        return Err(PeError::Magic { magic: "PE32+" });
    }
    let alignment = |at: usize, what| match u32_at(file, optional + at, "optional header")? {
        value if value.is_power_of_two() && value <= 1 << 20 => Ok(value),
        value => Err(PeError::Value { what, value: value.into() }),
    };
    let section_alignment = alignment(32, "section alignment")?;
    let file_alignment = alignment(36, "file alignment")?;
    let image_bytes = u32_at(file, optional + 56, "optional header")?;
    let header_bytes = u32_at(file, optional + 60, "optional header")? as usize;

    let next_header = table + count * SECTION_HEADER;
    let sections: Vec<Section> =
        (0..count).map(|index| section(file, table + index * SECTION_HEADER)).collect::<Result<_, _>>()?;
    let stored = sections.iter().filter(|section| section.stored_bytes > 0);
    let first_byte = stored.map(|section| section.stored_at as usize).min().unwrap_or(file.len());
    let headers_end = header_bytes.min(file.len());
    let mut end_of_addresses = 0;
    for section in &sections {
        let end = section.address.checked_add(section.bytes.max(section.stored_bytes));
        let end = end.filter(|end| *end <= i32::MAX as u32);
        let wrong = PeError::Value { what: "section address", value: section.address.into() };
        end_of_addresses = end_of_addresses.max(end.ok_or(wrong)?);
    }
    let end_of_sections =
        sections.iter().map(|section| section.stored_at as usize + section.stored_bytes as usize);
    Ok(Layout {
        section_alignment,
        file_alignment,
        image_bytes,
        stamp,
        room: headers_end.min(first_byte).saturating_sub(next_header) / SECTION_HEADER,
        next_header,
        end_of_addresses,
        end_of_sections: end_of_sections.max().unwrap_or(0).max(headers_end),
        sections,
        coff,
        optional,
    })
}

fn section(file: &[u8], at: usize) -> Result<Section, PeError> {
    let what = "section table";
    let name = file.get(at..at + 8).ok_or(PeError::Short { what, bytes: file.len() })?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    let section = Section {
        name,
        bytes: u32_at(file, at + 8, what)?,
        address: u32_at(file, at + 12, what)?,
        stored_bytes: u32_at(file, at + 16, what)?,
        stored_at: u32_at(file, at + 20, what)?,
    };
    let end = u64::from(section.stored_at) + u64::from(section.stored_bytes);
    if end > file.len() as u64 {
        return Err(PeError::Section { name: section.name });
    }
    Ok(section)
}

/// Write a section header; the caller has counted [`Layout::room`].
pub fn write_section(image: &mut [u8], at: usize, section: &Section) {
    let mut header = [0; SECTION_HEADER];
    let name = section.name.as_bytes();
    let length = name.len().min(8);
    header[..length].copy_from_slice(&name[..length]);
    put(&mut header, 8, section.bytes);
    put(&mut header, 12, section.address);
    put(&mut header, 16, section.stored_bytes);
    put(&mut header, 20, section.stored_at);
    put(&mut header, 36, INITIALISED_DATA | READABLE);
    image[at..at + SECTION_HEADER].copy_from_slice(&header);
}

/// The numbers that change with the sections, and those that must not depend on when and where it was made.
pub fn finish(image: &mut [u8], layout: &Layout, sections: u16, image_bytes: u32) {
    image[layout.coff + 2..layout.coff + 4].copy_from_slice(&sections.to_le_bytes());
    put(image, layout.coff + 4, 0); // time stamp
    put(image, layout.coff + 8, 0); // symbol table
    put(image, layout.coff + 12, 0); // number of symbols
    put(image, layout.optional + 56, image_bytes);
    put(image, layout.optional + 64, 0); // checksum: firmware does not look at it
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn u16_at(file: &[u8], at: usize, what: &'static str) -> Result<u16, PeError> {
    let bytes = file.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|bytes| u16::from_le_bytes(*bytes)).ok_or(PeError::Short { what, bytes: file.len() })
}

fn u32_at(file: &[u8], at: usize, what: &'static str) -> Result<u32, PeError> {
    let bytes = file.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(PeError::Short { what, bytes: file.len() })
}

pub const SECTION_HEADER: usize = 40;
const INITIALISED_DATA: u32 = 0x40;
const READABLE: u32 = 0x4000_0000;

/// A stub as small as they come: `own` sections of one page and room for `room` more headers.
#[cfg(test)]
pub(crate) fn fake_stub(own: usize, room: usize) -> Vec<u8> {
    let headers = (0x40 + 24 + 240 + (own + room) * SECTION_HEADER) as u32;
    let first = headers.next_multiple_of(0x200);
    let mut file = vec![0; first as usize];
    file[..2].copy_from_slice(b"MZ");
    put(&mut file, 0x3c, 0x40);
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    file[0x46..0x48].copy_from_slice(&(own as u16).to_le_bytes());
    put(&mut file, 0x48, 0x1234_5678);
    file[0x54..0x56].copy_from_slice(&240_u16.to_le_bytes());
    let optional = 0x58;
    file[optional..optional + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
    put(&mut file, optional + 32, 0x1000);
    put(&mut file, optional + 36, 0x200);
    put(&mut file, optional + 60, headers);
    for index in 0..own as u32 {
        let stored_at = first + index * 0x200;
        let section = Section {
            name: format!(".own{index}"),
            address: 0x1000 * (index + 1),
            bytes: 0x1f0,
            stored_at,
            stored_bytes: 0x200,
        };
        write_section(&mut file, optional + 240 + index as usize * SECTION_HEADER, &section);
        file.resize(file.len() + 0x200, 0xc0 + index as u8);
    }
    put(&mut file, optional + 56, 0x1000 * (own as u32 + 1));
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cut_file_is_refused() {
        let stub = fake_stub(2, 8);
        for end in 0..stub.len() {
            assert!(layout(&stub[..end]).is_err(), "cut at {end}");
        }
        assert!(layout(&stub).is_ok());
    }

    #[test]
    fn a_section_behind_the_end_is_named() {
        let mut stub = fake_stub(1, 8);
        stub.truncate(stub.len() - 1);
        assert_eq!(layout(&stub), Err(PeError::Section { name: ".own0".into() }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut file = fake_stub(2, 8);
            for (at, byte) in bytes.iter().enumerate() {
                file[at] ^= byte & 0x11;
            }
            let _ = layout(&file);
            let _ = layout(&bytes);
        }
    }
}
