//! The TD HOB witness: the memory layout that the firmware of an image hands to its guest.

use crate::platform::tdx::image::td_hob::{MemoryLayout, Range};
use crate::platform::tdx::image::tdvf::{MAX_SECTIONS, PAGE};

/// Why a TD HOB witness does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// It ends inside a number.
    #[error("it is truncated")]
    Truncated,
    /// More ranges than the limit.
    #[error("it declares {0} ranges, more than the {MAX_SECTIONS} supported")]
    TooManyRanges(u64),
    /// A number or an address exceeds 64 bits.
    #[error("an address overflows")]
    Overflow,
    /// Trailing bytes.
    #[error("it has {0} trailing bytes")]
    Trailing(usize),
}

/// Page numbers in LEB128: base; hand-off block relative to it; count; for each range, its start relative to
/// the base, and its length.
pub(super) fn witness(mut bytes: &[u8]) -> Result<MemoryLayout, WitnessError> {
    let base = leb128(&mut bytes)?;
    let address = |page: u64| {
        let page = base.checked_add(page).and_then(|page| page.checked_mul(PAGE));
        page.ok_or(WitnessError::Overflow)
    };
    let hob = address(leb128(&mut bytes)?)?;
    let count = leb128(&mut bytes)?;
    if count > u64::from(MAX_SECTIONS) {
        return Err(WitnessError::TooManyRanges(count));
    }
    let mut accepted = Vec::new();
    for _ in 0..count {
        let (start, pages) = (address(leb128(&mut bytes)?)?, leb128(&mut bytes)?);
        let end = pages.checked_mul(PAGE).and_then(|length| start.checked_add(length));
        accepted.push(Range { start, end: end.ok_or(WitnessError::Overflow)? });
    }
    match bytes.len() {
        0 => Ok(MemoryLayout { hob, accepted }),
        left => Err(WitnessError::Trailing(left)),
    }
}

fn leb128(bytes: &mut &[u8]) -> Result<u64, WitnessError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(WitnessError::Truncated)?;
        *bytes = rest;
        let group = u64::from(byte & 0x7f);
        if group << shift >> shift != group {
            return Err(WitnessError::Overflow);
        }
        value |= group << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WitnessError::Overflow)
}
