//! A parsed TDX quote.

use dcap_qvl::quote::Quote;

use super::{Rejection, Shortfall, TdReport, TdxError, VerifiedQuote, claims, conclude, reason};
use crate::collateral::{Collateral, CollateralError, PckChain};
use crate::trust::TrustAnchors;

/// Certification data type of a PEM chain.
const PCK_CERTIFICATE_CHAIN: u16 = 5;

/// A TDX quote, its bytes and the parsed form. Nothing in it is verified.
#[derive(Debug)]
pub struct TdQuote<'a> {
    bytes: &'a [u8],
    parsed: Quote,
    report: TdReport,
}

impl<'a> TdQuote<'a> {
    /// Parses a quote. Trailing bytes are ignored.
    ///
    /// # Errors
    /// [`TdxError::Malformed`], [`TdxError::NotATd`], [`TdxError::UnsupportedBody`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TdxError> {
        let parsed = Quote::parse(bytes).map_err(|e| TdxError::Malformed(reason(&e)))?;
        let report = TdReport::from_report(&parsed.report)?;
        Ok(Self { bytes, parsed, report })
    }

    /// The TD report.
    pub fn report(&self) -> &TdReport {
        &self.report
    }

    /// [`verify_quote`](super::verify_quote) of this quote.
    ///
    /// # Errors
    /// Any [`TdxError`].
    pub fn verify(
        &self,
        collateral: &Collateral,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<VerifiedQuote, TdxError> {
        self.verify_by(&self.chain(collateral)?, collateral, anchors, now)
    }

    /// [`TdQuote::verify`] with a chain that was read before.
    pub(crate) fn verify_by(
        &self,
        chain: &PckChain,
        collateral: &Collateral,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<VerifiedQuote, TdxError> {
        // The library accepts only bytes and parses them again. All that we report comes from its parsing;
        // `conclude` refuses the quote if ours, on which earlier checks were made, differs. The library gets
        // the PCK chain from us and does not look for one in the quote.
        let claims =
            claims(self.bytes, collateral.parts_for(chain.pem()), anchors, now).map_err(|reason| {
                match Shortfall::of(&reason, self, chain, collateral) {
                    Some(shortfall) => TdxError::Unlisted { reason, shortfall: Box::new(shortfall) },
                    None => {
                        let rejection = Rejection::of(&reason, &self.report);
                        TdxError::Rejected { reason, rejection }
                    }
                }
            })?;
        conclude(claims, self, chain, collateral)
    }

    /// The chain in the collateral, otherwise the one in the quote.
    fn chain(&self, collateral: &Collateral) -> Result<PckChain, TdxError> {
        let chain = collateral.pck_certificate_chain().map(str::as_bytes);
        let chain = chain.or_else(|| self.has_chain().then(|| self.parsed.inner_cert_data()));
        PckChain::read(chain.ok_or(TdxError::NoPckChain)?).map_err(|error| match error {
            CollateralError::PckChain(error) => TdxError::PckChain(error),
            CollateralError::Quote(_)
            | CollateralError::NotATd
            | CollateralError::UntrustedPlatform
            | CollateralError::Unavailable { .. }
            | CollateralError::Malformed(_) => TdxError::Platform,
        })
    }

    /// Whether the quote contains its PCK certificate chain.
    pub(crate) fn has_chain(&self) -> bool {
        self.parsed.inner_cert_type() == PCK_CERTIFICATE_CHAIN
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn parsed(&self) -> &Quote {
        &self.parsed
    }

    pub(super) fn into_report(self) -> TdReport {
        self.report
    }
}
