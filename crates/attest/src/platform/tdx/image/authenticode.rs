//! The Authenticode digest of an EFI program, as firmware computes it.

use sha2::{Digest as _, Sha384};

use super::bytes::{OutOfBounds, slice, u16_at, u32_at};
use super::digest::Digest;

/// Why bytes are not an EFI program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticodeError {
    /// The program ends inside a structure.
    #[error("the EFI program {0}")]
    Truncated(#[from] OutOfBounds),
    /// Not a portable executable.
    #[error("not an EFI program")]
    NotPe,
    /// Sections overlap.
    #[error("the EFI program has sections that overlap")]
    Overlap,
}

/// Offsets and lengths in the file.
struct Layout {
    checksum: usize,
    /// Offset of the directory entry for the certificate table.
    certificate_entry: usize,
    /// Length of the certificate table.
    certificates: usize,
    headers: usize,
    /// Offset and length of each section's raw data, sorted by offset, without empty ones.
    sections: Vec<(usize, usize)>,
}

const SECTION: usize = 40;

pub(super) fn sha384(program: &[u8]) -> Result<Digest, AuthenticodeError> {
    let layout = layout(program)?;
    let mut hash = Sha384::new();
    let mut covered = 0;
    for (at, length) in [(layout.checksum, 4), (layout.certificate_entry, 8)] {
        let until = at.checked_sub(covered).ok_or(AuthenticodeError::NotPe)?;
        hash.update(slice(program, covered, until)?);
        covered = at + length;
    }
    let rest = layout.headers.checked_sub(covered).ok_or(AuthenticodeError::NotPe)?;
    hash.update(slice(program, covered, rest)?);
    let mut counted = layout.headers;
    for (offset, length) in layout.sections {
        let data = program.get(offset..).unwrap_or_default();
        let data = &data[..length.min(data.len())];
        counted += data.len();
        if counted > program.len() {
            return Err(AuthenticodeError::Overlap);
        }
        hash.update(data);
    }
    if layout.certificates > 0
        && let Some(trailing) = (program.len() - counted).checked_sub(layout.certificates)
    {
        hash.update(slice(program, counted, trailing)?);
    }
    let padding = program.len().next_multiple_of(8) - program.len();
    hash.update(&[0; 8][..padding]);
    Ok(hash.finalize().into())
}

fn layout(program: &[u8]) -> Result<Layout, AuthenticodeError> {
    let pe = u32_at(program, 0x3c)? as usize;
    if !program.starts_with(b"MZ") || slice(program, pe, 4)? != b"PE\0\0" {
        return Err(AuthenticodeError::NotPe);
    }
    let optional = pe + 24;
    let directories = match u16_at(program, optional)? {
        0x10b => optional + 96,
        0x20b => optional + 112,
        _ => return Err(AuthenticodeError::NotPe),
    };
    // Like the peer, reads this entry even if the program declares fewer directory entries.
    let certificate_entry = directories + 32;
    let certificates = u32_at(program, certificate_entry + 4)? as usize;
    let count = usize::from(u16_at(program, pe + 6)?);
    let table = optional + usize::from(u16_at(program, pe + 20)?);
    let mut sections = Vec::new();
    for entry in slice(program, table, count * SECTION)?.chunks_exact(SECTION) {
        let (length, offset) = (u32_at(entry, 16)? as usize, u32_at(entry, 20)? as usize);
        if length > 0 {
            sections.push((offset, length));
        }
    }
    sections.sort_by_key(|(offset, _)| *offset);
    let headers = u32_at(program, optional + 60)? as usize;
    Ok(Layout { checksum: optional + 64, certificate_entry, certificates, headers, sections })
}
