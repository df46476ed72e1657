//! The platform that a quote names in its certification data. Nothing here is verified yet.

use dcap_qvl::quote::{EncryptedPpidParams, Quote};

use super::{CollateralError, PckChain, PlatformKey};
use crate::trust::TrustAnchors;

/// The quoting enclave of a platform, as the header of its quotes names it.
pub(super) type QeId = [u8; 16];

/// How a quote names its platform.
pub(super) enum Origin {
    /// By the PCK certificate chain in the quote.
    Certificate(PckChain),
    /// By the parameters of a PCK certificate request.
    EncryptedPpid(Box<PckRequest>),
}

/// Parameters of a PCK certificate request (`pckcert`).
pub(super) struct PckRequest {
    pub(super) qe_id: QeId,
    pub(super) parameters: EncryptedPpidParams,
}

const ENCRYPTED_PPID_2048: u16 = 2;
const ENCRYPTED_PPID_3072: u16 = 3;
const PCK_CERTIFICATE_CHAIN: u16 = 5;

impl Origin {
    pub(super) fn of(quote: &[u8]) -> Result<Self, CollateralError> {
        Self::of_parsed(
            &Quote::parse(quote).map_err(|_| CollateralError::Quote("quote does not parse".into()))?,
        )
    }

    pub(super) fn of_parsed(quote: &Quote) -> Result<Self, CollateralError> {
        if quote.report.is_sgx() {
            return Err(CollateralError::NotATd);
        }
        match quote.inner_cert_type() {
            PCK_CERTIFICATE_CHAIN => Ok(Self::Certificate(PckChain::read(quote.inner_cert_data())?)),
            ENCRYPTED_PPID_2048 | ENCRYPTED_PPID_3072 => {
                let parameters = quote
                    .encrypted_ppid_params()
                    .map_err(|_| CollateralError::Quote("encrypted ppid does not parse".into()))?;
                let mut qe_id = [0; 16];
                qe_id.copy_from_slice(&quote.header.user_data[..16]);
                Ok(Self::EncryptedPpid(Box::new(PckRequest { qe_id, parameters })))
            }
            other => Err(CollateralError::Quote(format!("certification data type {other} is not supported"))),
        }
    }
}

/// Checks, without collateral, that the PCK certificate in `quote` chains to the trusted root. A quote with
/// an encrypted PPID carries no certificate and passes; its chain is fetched with the collateral and checked
/// then.
///
/// # Errors
/// [`CollateralError::UntrustedPlatform`], or the error of a quote that does not name its platform.
pub fn platform_is_rooted(quote: &[u8], anchors: &TrustAnchors) -> Result<(), CollateralError> {
    let Origin::Certificate(chain) = Origin::of(quote)? else { return Ok(()) };
    match chain.leads_to(anchors.tdx_root()) {
        true => Ok(()),
        false => Err(CollateralError::UntrustedPlatform),
    }
}

/// The model of the platform that `quote` names, not verified; `None` for a quote with an encrypted PPID, which names
/// none.
///
/// # Errors
/// [`CollateralError::Quote`], [`CollateralError::NotATd`], [`CollateralError::PckChain`].
pub fn named_model(quote: &[u8]) -> Result<Option<PlatformKey>, CollateralError> {
    match Origin::of(quote)? {
        Origin::Certificate(chain) => Ok(Some(chain.platform())),
        Origin::EncryptedPpid(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::CaKind;
    use crate::collateral::testing::{mock_quote, real_quote, vector, with_encrypted_ppid};

    fn platform(quote: &[u8]) -> Result<PlatformKey, CollateralError> {
        match Origin::of(quote)? {
            Origin::Certificate(chain) => Ok(chain.platform()),
            Origin::EncryptedPpid(_) => panic!("expected a certificate"),
        }
    }

    #[test]
    fn fmspc_and_ca_come_from_the_pck_certificate() {
        assert_eq!(platform(&mock_quote()), Ok(PlatformKey { fmspc: [0; 6], ca: CaKind::Platform }));
        let real = platform(&real_quote()).unwrap();
        assert_eq!(hex::encode(real.fmspc), "b0c06f000000");
    }

    #[test]
    fn an_sgx_quote_is_not_a_td() {
        let sgx = vector("fixtures/dcap-qvl/sgx_quote.bin");
        assert_eq!(platform(&sgx), Err(CollateralError::NotATd));
    }

    #[test]
    fn junk_is_refused_without_a_panic() {
        let quote = mock_quote();
        for cut in 0..quote.len() {
            assert!(platform(&quote[..cut]).is_err(), "{cut} bytes");
        }
        for at in (0..quote.len()).step_by(7) {
            let mut junk = quote.clone();
            junk[at] ^= 0xff;
            // Only the platform is read here; an accepted quote must still name this one.
            if let Ok(Origin::Certificate(chain)) = Origin::of(&junk) {
                assert_eq!(Ok(chain.platform()), platform(&quote), "byte {at}");
            }
        }
        for junk in [&[][..], &[0; 4096], &[0xff; 4096]] {
            assert!(matches!(Origin::of(junk), Err(CollateralError::Quote(_))));
        }
    }

    #[test]
    fn an_encrypted_ppid_gives_the_parameters_of_the_request() {
        for (kind, length) in [(ENCRYPTED_PPID_2048, 256), (ENCRYPTED_PPID_3072, 384)] {
            let quote = with_encrypted_ppid(&mock_quote(), kind, length);
            let Ok(Origin::EncryptedPpid(request)) = Origin::of(&quote) else { panic!("type {kind}") };
            assert_eq!(request.parameters.encrypted_ppid, vec![0xEE; length]);
            assert_eq!(request.parameters.cpusvn, [7; 16]);
            assert_eq!(request.parameters.pcesvn, 0x0102);
            assert_eq!(request.parameters.pceid, [3, 4]);
        }
        let short = with_encrypted_ppid(&mock_quote(), ENCRYPTED_PPID_2048, 100);
        assert!(matches!(Origin::of(&short), Err(CollateralError::Quote(_))));
        let other = with_encrypted_ppid(&mock_quote(), 7, 100);
        assert!(matches!(Origin::of(&other), Err(CollateralError::Quote(_))));
    }
}
