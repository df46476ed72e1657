//! Certificate chains in PEM, in quotes and in collateral. There is one reader, and it is strict:
//! certificates in order and nothing else.
//!
//! The text of a chain is not signed, so a sender can put anything around the certificates. If two readers
//! disagreed about what counts as a certificate, one would verify a chain that the other does not use. So
//! other forms are refused, and what is passed on is written again from the certificates read ([`pem_of`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate;

/// Intel's chains have three certificates at most: leaf, CA, root.
const MAX_CHAIN: usize = 3;
/// Intel's chains have about 4 KiB.
pub(super) const MAX_CHAIN_BYTES: usize = 32 << 10;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// Why a text is not a certificate chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More bytes than the limit.
    #[error("is longer than {MAX_CHAIN_BYTES} bytes")]
    TooLong,
    /// More certificates than a leaf, its CA and the root.
    #[error("has more than {MAX_CHAIN} certificates")]
    TooMany,
    /// No block, text between the blocks, or a block with another label.
    #[error("has something that is not a CERTIFICATE block")]
    NotACertificate,
    /// A block that does not hold exactly one certificate.
    #[error("has a certificate that does not parse")]
    Malformed,
    /// A certificate whose issuer is not the subject of the next one.
    #[error("is not in order: leaf, CA, root")]
    Order,
}

/// The certificates of a chain: one to three, each naming the next one's subject as its issuer. Signatures
/// are not checked.
///
/// White space is allowed before and between the blocks, and white space and NUL bytes after the last one,
/// because quotes carry the chain as a C string.
///
/// # Errors
/// Any [`ChainError`].
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    if pem.len() > MAX_CHAIN_BYTES {
        return Err(ChainError::TooLong);
    }
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    let mut issuer_before: Option<Vec<u8>> = None;
    let mut rest = pem.trim_ascii_start();
    while chain.is_empty() || !is_end(rest) {
        let block = rest.strip_prefix(BEGIN).ok_or(ChainError::NotACertificate)?;
        let end = block.iter().position(|byte| *byte == b'-').ok_or(ChainError::NotACertificate)?;
        let (base64, block) = block.split_at(end);
        rest = block.strip_prefix(END).ok_or(ChainError::NotACertificate)?.trim_ascii_start();
        if chain.len() == MAX_CHAIN {
            return Err(ChainError::TooMany);
        }
        let Names { der, subject, issuer } = decode(base64)?;
        // A self-issued certificate ends the chain: no further one may follow.
        if issuer_before.is_some_and(|issuer_before| issuer_before != subject) {
            return Err(ChainError::Order);
        }
        issuer_before = Some(if issuer == subject { Vec::new() } else { issuer });
        chain.push(der);
    }
    Ok(chain)
}

fn is_end(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0 || byte.is_ascii_whitespace())
}

/// A certificate with its subject and issuer names, all DER.
struct Names {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

/// Ignores white space anywhere in the base64.
fn decode(base64: &[u8]) -> Result<Names, ChainError> {
    let digits: Vec<u8> = base64.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(digits).map_err(|_| ChainError::Malformed)?;
    let Ok(([], parsed)) = X509Certificate::from_der(&der) else { return Err(ChainError::Malformed) };
    let (subject, issuer) = (parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec());
    Ok(Names { der: der.into(), subject, issuer })
}

/// The only form in which chains are passed on: 64 columns, LF, nothing between the blocks.
pub(super) fn pem_of(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| certificate::pem(der)).collect()
}
