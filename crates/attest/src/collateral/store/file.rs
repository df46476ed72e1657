//! The form of a file: one line that says what it is, when it was fetched, and a digest; then the documents as JSON.
//!
//! ```text
//! cvm-kms collateral 1 1750000000 5f70bf18…
//! {"pck_crl_issuer_chain":"-----BEGIN CERTIFICATE-----…
//! ```
//!
//! The digest (SHA-256 of the line without itself, a line feed, and the JSON) finds damage. It proves nothing: the signatures in
//! the documents do.

use dcap_qvl::QuoteCollateralV3;
use sha2::{Digest as _, Sha256};

/// The first line up to the time.
const BEGINNING: &str = "cvm-kms collateral 1 ";
/// Longer first lines are not ours: 20 digits and 64 are the most.
const MAX_LINE: usize = BEGINNING.len() + 20 + 1 + 64;

/// What is wrong with the content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is not the one of this version.
    #[error("its first line is not that of kept collateral")]
    FirstLine,
    /// It was changed after it was written, or only a part was.
    #[error("its digest is not that of its content")]
    Digest,
    /// The documents do not parse.
    #[error("it has no collateral in the JSON form of dcap-qvl")]
    Json,
}

/// The content of a file.
pub(super) fn encode(parts: &QuoteCollateralV3, fetched: u64) -> serde_json::Result<Vec<u8>> {
    let parts = QuoteCollateralV3 { pck_certificate_chain: None, ..parts.clone() };
    Ok(seal(fetched, &serde_json::to_vec(&parts)?))
}

/// The content of a file with these documents in JSON, which are not examined.
pub fn seal(fetched: u64, json: &[u8]) -> Vec<u8> {
    let mut content = first_line(fetched, json).into_bytes();
    content.extend_from_slice(json);
    content
}

/// Reads what was written, and nothing else: when it was fetched (Unix seconds), and the documents.
///
/// # Errors
/// [`Damage`].
pub fn parse(content: &[u8]) -> Result<(u64, QuoteCollateralV3), Damage> {
    let (line, json) = split(content).ok_or(Damage::FirstLine)?;
    let fetched = time_of(line).ok_or(Damage::FirstLine)?;
    if first_line(fetched, json).as_bytes() != [line, b"\n"].concat() {
        return Err(Damage::Digest);
    }
    let parts = crate::json::from_utf8(json).map_err(|_| Damage::Json)?;
    Ok((fetched, QuoteCollateralV3 { pck_certificate_chain: None, ..parts }))
}

/// When the content was fetched, as it says.
pub(super) fn fetched(content: &[u8]) -> Option<u64> {
    time_of(split(content)?.0)
}

fn split(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = content.iter().take(MAX_LINE + 1).position(|byte| *byte == b'\n')?;
    let (line, rest) = content.split_at_checked(end)?;
    Some((line, rest.get(1..)?))
}

fn time_of(line: &[u8]) -> Option<u64> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix(BEGINNING)?;
    rest.split(' ').next()?.parse().ok()
}

/// The first line for these documents, with its line feed.
fn first_line(fetched: u64, json: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{BEGINNING}{fetched}\n"));
    digest.update(json);
    format!("{BEGINNING}{fetched} {}\n", hex::encode(digest.finalize()))
}
