//! The chain of a platform's PCK certificate, as the quote verifier gets it.

use std::sync::{Arc, LazyLock};

use dcap_qvl::config::CryptoProvider as _;
use dcap_qvl::intel::parse_pck_extension_with;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::chain::{MAX_CHAIN_BYTES, certificates, pem_of};
use super::crypto::{AwsLc, Dcap};
use super::{CaKind, ChainError, CollateralError, PlatformKey, signed};

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
                signed::is_signed(ca, root)
                    && signed::is_signed(leaf, ca)
                    && rest.iter().all(|last| signed::is_rooted(last, root))
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
