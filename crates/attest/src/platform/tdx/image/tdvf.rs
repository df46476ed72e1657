//! The TDX metadata of a firmware image: which parts go where in the TD's memory.

use super::bytes::{OutOfBounds, guid, slice, u16_at, u32_at, u64_at};

/// Maximum number of sections; real firmware has about six.
pub const MAX_SECTIONS: u32 = 64;

/// A page of a TD's memory.
pub(super) const PAGE: u64 = 4096;

/// Distance of the GUID table from the end of the firmware.
const TABLE_FROM_END: usize = 32;
/// A length and a GUID.
const ENTRY_TAIL: usize = 18;
const TABLE_FOOTER: [u8; 16] =
    guid(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
const METADATA_OFFSET: [u8; 16] =
    guid(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);
const HEADER: usize = 16;
const SECTION: usize = 32;

/// Type of the section for the TD hand-off block.
pub(super) const TD_HOB: u32 = 2;
/// Type of sections for temporary memory.
pub(super) const TEMPORARY_MEMORY: u32 = 3;

/// A section of a firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Offset of the data in the firmware.
    pub data_offset: u32,
    /// Length of the data, bytes.
    pub raw_size: u32,
    /// Address in the TD's memory, page-aligned.
    pub address: u64,
    /// Length in the TD's memory, bytes, a multiple of the page size.
    pub memory_size: u64,
    /// Section type.
    pub kind: u32,
    /// Bit 0: its contents are measured. Bit 1: its pages are added by the guest, not at launch.
    pub attributes: u32,
}

/// Why bytes are not a TDX firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdvfError {
    /// The firmware ends inside a structure.
    #[error("the firmware {0}")]
    Truncated(#[from] OutOfBounds),
    /// No GUID table, or no TDX entry in it.
    #[error("the firmware has no TDX metadata")]
    NoMetadata,
    /// The descriptor is not version 1.
    #[error("the firmware's TDX metadata are not of version 1")]
    Descriptor,
    /// More than [`MAX_SECTIONS`].
    #[error("the firmware has {0} sections, at most {MAX_SECTIONS} are allowed")]
    TooManySections(u32),
    /// A section whose address or length is not page-aligned, or which ends beyond the address space.
    #[error("section {0} of the firmware is not of whole pages")]
    Unaligned(u32),
    /// A section with more data than memory.
    #[error("section {0} of the firmware has more data than memory")]
    Oversized(u32),
}

/// The sections of a firmware, in order.
///
/// # Errors
/// [`TdvfError`].
pub fn sections(firmware: &[u8]) -> Result<Vec<Section>, TdvfError> {
    let from_end = metadata_offset(firmware)?;
    let start = firmware.len().checked_sub(from_end).ok_or(TdvfError::NoMetadata)?;
    let header = slice(firmware, start, HEADER)?;
    if !header.starts_with(b"TDVF") || u32_at(header, 8)? != 1 {
        return Err(TdvfError::Descriptor);
    }
    let count = u32_at(header, 12)?;
    if count > MAX_SECTIONS {
        return Err(TdvfError::TooManySections(count));
    }
    let table = slice(firmware, start + HEADER, count as usize * SECTION)?;
    (0..).zip(table.chunks_exact(SECTION)).map(|(index, entry)| section(index, entry)).collect()
}

fn section(index: u32, entry: &[u8]) -> Result<Section, TdvfError> {
    let section = Section {
        data_offset: u32_at(entry, 0)?,
        raw_size: u32_at(entry, 4)?,
        address: u64_at(entry, 8)?,
        memory_size: u64_at(entry, 16)?,
        kind: u32_at(entry, 24)?,
        attributes: u32_at(entry, 28)?,
    };
    let aligned = section.address.is_multiple_of(PAGE) && section.memory_size.is_multiple_of(PAGE);
    if !aligned || section.address.checked_add(section.memory_size).is_none() {
        return Err(TdvfError::Unaligned(index));
    }
    if u64::from(section.raw_size) > section.memory_size {
        return Err(TdvfError::Oversized(index));
    }
    Ok(section)
}

/// Distance of the descriptor from the end of the firmware, found by walking the GUID table backwards.
fn metadata_offset(firmware: &[u8]) -> Result<usize, TdvfError> {
    let tail = (firmware.len().checked_sub(TABLE_FROM_END + ENTRY_TAIL)).ok_or(TdvfError::NoMetadata)?;
    if slice(firmware, tail + 2, 16)? != TABLE_FOOTER {
        return Err(TdvfError::NoMetadata);
    }
    let length = usize::from(u16_at(firmware, tail)?);
    let mut table = slice(firmware, tail.checked_sub(length).ok_or(TdvfError::NoMetadata)?, length)?;
    while let Some(at) = table.len().checked_sub(ENTRY_TAIL) {
        if table[at + 2..] == METADATA_OFFSET {
            let offset = u32_at(table, at.checked_sub(4).ok_or(TdvfError::NoMetadata)?)?;
            return Ok(offset as usize);
        }
        let length = usize::from(u16_at(table, at)?);
        let rest = table.len().checked_sub(length.max(1)).ok_or(TdvfError::NoMetadata)?;
        table = &table[..rest];
    }
    Err(TdvfError::NoMetadata)
}
