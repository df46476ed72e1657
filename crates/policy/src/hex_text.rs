//! Hex as an allowlist has it.

/// The bytes that a hex text of the file stands for. auth-simple compares texts after lower-casing and adding
/// `0x`; a measured value is always well-formed hex, so a text that is not, or is empty, allows nothing.
pub(crate) fn bytes_of(text: &str) -> Option<Box<[u8]>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    hex::decode(digits).ok().filter(|bytes| !bytes.is_empty()).map(Vec::into_boxed_slice)
}
