//! Bounds-checked access to byte strings; numbers are little-endian.

/// A range that is not inside the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ends inside a structure at byte {0}")]
pub struct OutOfBounds(pub usize);

/// `length` bytes at `at`.
pub(super) fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], OutOfBounds> {
    let end = at.checked_add(length).ok_or(OutOfBounds(at))?;
    bytes.get(at..end).ok_or(OutOfBounds(at))
}

/// `N` bytes at `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], OutOfBounds> {
    slice(bytes, at, N)?.try_into().map_err(|_| OutOfBounds(at))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, OutOfBounds> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, OutOfBounds> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Result<u64, OutOfBounds> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Overwrites the bytes at `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), OutOfBounds> {
    let end = at.checked_add(value.len()).ok_or(OutOfBounds(at))?;
    bytes.get_mut(at..end).ok_or(OutOfBounds(at))?.copy_from_slice(value);
    Ok(())
}

/// A GUID in its mixed-endian form, from its five groups (the last two as bytes).
pub(super) const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest);
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}
