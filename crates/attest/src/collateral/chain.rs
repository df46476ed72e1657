//! Certificate chains in PEM, in quotes and in collateral. There is one reader, and it is strict:
//! certificates in order and nothing else.
//!
//! The text of a chain is not signed, so a sender can put anything around the certificates. If two readers
//! disagreed about what counts as a certificate, one would verify a chain that the other does not use. So
//! other forms are refused, and what is passed on is written again from the certificates read ([`pem_of`]).

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dcap_qvl::config::CryptoProvider as _;
use dcap_qvl::intel::parse_pck_extension_with;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crypto::{AwsLc, Dcap};
use super::origin::{CaKind, PlatformKey};
use super::{CollateralError, authentic};
use crate::certificate;

/// Intel's chains have three certificates at most: leaf, CA, root.
const MAX_CHAIN: usize = 3;
/// Intel's chains have about 4 KiB.
const MAX_CHAIN_BYTES: usize = 32 << 10;

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

/// The chain of a platform's PCK certificate: the certificate, its CA and perhaps the root.
///
/// The quote verifier reads only [`PckChain::pem`], so it judges exactly these certificates. Their signatures
/// are not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PckChain {
    certificates: Arc<[CertificateDer<'static>]>,
    platform: PlatformKey,
}

/// Chains by the SHA-256 of their text, on which alone they depend: each quote of a platform has the same
/// one. Errors are never cached.
static READ: LazyLock<Cache<[u8; 32], PckChain, Bytes>> =
    LazyLock::new(|| Cache::with_weighter(64, MAX_CACHED_BYTES, Bytes));

/// Size of the certificates of all cached chains, those of about 300 platforms.
const MAX_CACHED_BYTES: u64 = 1 << 20;

/// The weight of a cached chain.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<[u8; 32], PckChain> for Bytes {
    fn weight(&self, _: &[u8; 32], chain: &PckChain) -> u64 {
        chain.certificates.iter().map(|certificate| certificate.len() as u64).sum()
    }
}

impl PckChain {
    pub(crate) fn read(pem: &[u8]) -> Result<Self, CollateralError> {
        if pem.len() > MAX_CHAIN_BYTES {
            return Err(CollateralError::PckChain(ChainError::TooLong));
        }
        let key = AwsLc::sha256(pem);
        if let Some(chain) = READ.get(&key) {
            return Ok(chain);
        }
        let chain = Self::parse(pem)?;
        READ.insert(key, chain.clone());
        Ok(chain)
    }

    fn parse(pem: &[u8]) -> Result<Self, CollateralError> {
        let certificates = certificates(pem).map_err(CollateralError::PckChain)?;
        if certificates.len() < 2 {
            return Err(CollateralError::PckChain(ChainError::Order));
        }
        let malformed = || CollateralError::Quote("pck certificate does not parse".into());
        let leaf = &certificates[0];
        let fmspc = parse_pck_extension_with::<Dcap>(leaf).map_err(|_| malformed())?.fmspc;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| malformed())?;
        // The same rule as for the issuer of a CRL: the two must agree.
        let ca = CaKind::of_issuer(&parsed.issuer().to_string());
        Ok(Self { certificates: certificates.into(), platform: PlatformKey { fmspc, ca } })
    }

    /// The cache key of the platform's collateral, from the leaf. With collateral of another model the
    /// verifier refuses the quote.
    pub(crate) fn platform(&self) -> PlatformKey {
        self.platform
    }

    /// The PCK certificate.
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.certificates[0]
    }

    /// The chain in PEM, for the quote verifier.
    pub(crate) fn pem(&self) -> String {
        pem_of(&self.certificates)
    }

    /// Whether all certificates are valid at `now`, Unix seconds.
    pub(super) fn is_valid_at(&self, now: u64) -> bool {
        self.certificates.iter().all(|certificate| {
            let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
            let validity = certificate.validity();
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.cast_signed())
        })
    }

    /// Whether the leaf is signed by the CA after it, and the CA by `root`.
    pub(super) fn leads_to(&self, root: &CertificateDer<'_>) -> bool {
        match &self.certificates[..] {
            [leaf, ca, rest @ ..] => {
                authentic::is_signed(ca, root)
                    && authentic::is_signed(leaf, ca)
                    && rest.iter().all(|last| authentic::is_rooted(last, root))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use dcap_qvl::quote::Quote;

    use super::*;
    use crate::collateral::testing::mock_quote;

    #[test]
    fn only_chains_that_were_read_are_cached_and_their_size_is_bounded() {
        let quote = mock_quote();
        let quote = Quote::parse(&quote).unwrap();
        let pem = quote.inner_cert_data();
        let chain = PckChain::parse(pem).unwrap();
        for _ in 0..2 {
            assert_eq!(PckChain::read(pem).unwrap(), chain);
        }
        assert_eq!(READ.get(&AwsLc::sha256(pem)), Some(chain.clone()));
        let cut = &pem[..pem.len() / 2];
        for _ in 0..2 {
            assert!(PckChain::read(cut).is_err());
        }
        assert_eq!(READ.get(&AwsLc::sha256(cut)), None);
        for number in 0..2000_u32 {
            let mut other = [0; 32];
            other[..4].copy_from_slice(&number.to_be_bytes());
            READ.insert(other, chain.clone());
        }
        assert!(READ.weight() <= MAX_CACHED_BYTES, "{}", READ.weight());
        assert!(READ.len() > 100, "{}", READ.len());
        let long = [pem, &vec![b' '; MAX_CHAIN_BYTES]].concat();
        assert!(matches!(PckChain::read(&long), Err(CollateralError::PckChain(ChainError::TooLong))));
    }
}
