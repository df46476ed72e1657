//! MRTD: the measurement of the firmware's pages as QEMU adds them to the TD.

use sha2::{Digest as _, Sha384};

use super::bytes::{OutOfBounds, slice};
use super::digest::Digest;
use super::qemu::Passes;
use super::tdvf::{PAGE, Section};

/// Maximum number of measured pages: 1 GiB. Real firmware has a few thousand.
const MAX_PAGES: u64 = 1 << 18;
const CHUNK: u64 = 256;

/// Why the MRTD of a firmware cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MrtdError {
    /// A measured section has less data than pages.
    #[error("the firmware {0}")]
    Truncated(#[from] OutOfBounds),
    /// More pages than are measured.
    #[error("the firmware's sections have {0} pages, at most {MAX_PAGES} are measured")]
    TooManyPages(u64),
}

impl Section {
    fn is_added(&self) -> bool {
        self.attributes & 2 == 0
    }

    fn is_extended(&self) -> bool {
        self.attributes & 1 != 0
    }

    /// Offsets of the section's pages.
    fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.memory_size / PAGE).map(|page| page * PAGE)
    }
}

/// SHA-384 over the records of all pages, section by section.
pub(super) fn mrtd(firmware: &[u8], sections: &[Section], passes: Passes) -> Result<Digest, MrtdError> {
    // Sections that are not measured may have any length; their pages are not iterated.
    let measured = sections.iter().filter(|section| section.is_added() || section.is_extended());
    let pages = measured.clone().fold(0u64, |sum, section| sum.saturating_add(section.memory_size / PAGE));
    if pages > MAX_PAGES {
        return Err(MrtdError::TooManyPages(pages));
    }
    let mut hash = Sha384::new();
    for section in measured {
        match passes {
            Passes::Single => {
                for page in section.pages() {
                    add(&mut hash, section, page);
                    extend(&mut hash, firmware, section, page)?;
                }
            }
            Passes::Two => {
                section.pages().for_each(|page| add(&mut hash, section, page));
                section.pages().try_for_each(|page| extend(&mut hash, firmware, section, page))?;
            }
        }
    }
    Ok(hash.finalize().into())
}

fn add(hash: &mut Sha384, section: &Section, page: u64) {
    if section.is_added() {
        hash.update(record(b"MEM.PAGE.ADD", section.address + page));
    }
}

fn extend(hash: &mut Sha384, firmware: &[u8], section: &Section, page: u64) -> Result<(), OutOfBounds> {
    if !section.is_extended() {
        return Ok(());
    }
    for chunk in (page..page + PAGE).step_by(CHUNK as usize) {
        hash.update(record(b"MR.EXTEND", section.address + chunk));
        let at = u64::from(section.data_offset) + chunk;
        hash.update(slice(firmware, usize::try_from(at).unwrap_or(usize::MAX), CHUNK as usize)?);
    }
    Ok(())
}

/// A record of 128 bytes: the operation, and the guest physical address.
fn record(operation: &[u8], address: u64) -> [u8; 128] {
    let mut record = [0; 128];
    record[..operation.len()].copy_from_slice(operation);
    record[16..24].copy_from_slice(&address.to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_measured_costs_nothing_however_long() {
        let measured =
            Section { data_offset: 0, raw_size: 0, address: 0, memory_size: PAGE, kind: 0, attributes: 1 };
        let endless = Section { memory_size: u64::MAX / PAGE * PAGE, attributes: 2, ..measured };
        let firmware = [7; PAGE as usize];
        for passes in [Passes::Single, Passes::Two] {
            let alone = mrtd(&firmware, &[measured], passes);
            assert!(alone.is_ok());
            assert_eq!(mrtd(&firmware, &[endless, measured], passes), alone);
        }
    }
}
