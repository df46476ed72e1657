//! PEM (RFC 7468): writes blocks in one form, and reads the first block of a text.
//!
//! Like the peer, the reader ignores text around a block and white space in it. Chains in evidence and CRLs are
//! read more strictly: `collateral::read_chain`, `collateral::crl`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Columns of the base64 lines.
const COLUMNS: usize = 64;

/// A block with lines of 64 columns, LF and a final LF. The text is allocated once, so that a secret in
/// `base64` leaves no second copy.
pub(crate) fn write(label: &str, base64: &[u8]) -> String {
    let mut pem = String::with_capacity(base64.len() + base64.len() / COLUMNS + 2 * label.len() + 64);
    pem.extend(["-----BEGIN ", label, "-----\n"]);
    for line in base64.chunks(COLUMNS) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.extend(["-----END ", label, "-----\n"]);
    pem
}

/// The content of the first block with this label; the inner `None` means invalid base64.
pub(crate) fn read(text: &str, label: &str) -> Option<Option<Zeroizing<Vec<u8>>>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
    base64.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    Some(STANDARD.decode_slice(&base64[..], &mut der).ok().map(|length| {
        der.truncate(length);
        der
    }))
}
