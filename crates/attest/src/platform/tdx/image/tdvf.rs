//! The TDX metadata of a firmware image: which parts of it go where in the TD's memory.

use super::bytes::{OutOfBounds, guid, slice, u16_at, u32_at, u64_at};

/// Most sections of a firmware; real ones have about six.
pub const MAX_SECTIONS: u32 = 64;

/// A page of a TD's memory.
pub(super) const PAGE: u64 = 4096;

/// Distance of the table of GUIDs from the end of the firmware.
const TABLE_FROM_END: usize = 32;
/// A length and a GUID.
const ENTRY_TAIL: usize = 18;
const TABLE_FOOTER: [u8; 16] =
    guid(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
const METADATA_OFFSET: [u8; 16] =
    guid(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);
const HEADER: usize = 16;
const SECTION: usize = 32;

/// Type of the section that holds the TD hand-off block.
pub(super) const TD_HOB: u32 = 2;
/// Type of sections of temporary memory.
pub(super) const TEMPORARY_MEMORY: u32 = 3;

/// Where one part of a firmware goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Offset of its data in the firmware.
    pub data_offset: u32,
    /// Length of its data.
    pub raw_size: u32,
    /// Its place in the TD's memory, page-aligned.
    pub address: u64,
    /// Its length there, in whole pages.
    pub memory_size: u64,
    /// What it is for.
    pub kind: u32,
    /// Bit 0: its contents are measured. Bit 1: its pages are added by the guest, not at launch.
    pub attributes: u32,
}

/// Why bytes are not a firmware for TDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdvfError {
    /// Too short for what it says.
    #[error("the firmware {0}")]
    Truncated(#[from] OutOfBounds),
    /// No table of GUIDs, or no entry for TDX in it.
    #[error("the firmware has no TDX metadata")]
    NoMetadata,
    /// The descriptor is not one of version 1.
    #[error("the firmware's TDX metadata are not of version 1")]
    Descriptor,
    /// More than [`MAX_SECTIONS`].
    #[error("the firmware has {0} sections, at most {MAX_SECTIONS} are allowed")]
    TooManySections(u32),
    /// An address or a length that is not of whole pages, or a section that ends beyond the address space.
    #[error("section {0} of the firmware is not of whole pages")]
    Unaligned(u32),
    /// More data than memory.
    #[error("section {0} of the firmware has more data than memory")]
    Oversized(u32),
}

/// The sections of a firmware, in its order.
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

/// Distance of the descriptor from the end of the firmware: walks the table of GUIDs backwards.
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
