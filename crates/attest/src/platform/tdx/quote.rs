//! A TDX quote that was parsed once, for everyone who looks into it.

use dcap_qvl::quote::Quote;

use super::{Rejection, Shortfall, TdReport, TdxError, VerifiedQuote, claims, conclude, reason};
use crate::collateral::{Collateral, CollateralError, PckChain};
use crate::trust::TrustAnchors;

/// Type of the certification data that are a PEM chain.
const PCK_CERTIFICATE_CHAIN: u16 = 5;

/// The bytes of a TDX quote and what they say. Nothing about it is verified yet.
#[derive(Debug)]
pub struct TdQuote<'a> {
    bytes: &'a [u8],
    parsed: Quote,
    report: TdReport,
}

impl<'a> TdQuote<'a> {
    /// Parses a quote; bytes after it are ignored.
    ///
    /// # Errors
    /// [`TdxError::Malformed`], [`TdxError::NotATd`], [`TdxError::UnsupportedBody`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TdxError> {
        let parsed = Quote::parse(bytes).map_err(|e| TdxError::Malformed(reason(&e)))?;
        let report = TdReport::from_report(&parsed.report)?;
        Ok(Self { bytes, parsed, report })
    }

    /// Its body.
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

    /// [`TdQuote::verify`], by a chain that was read already.
    pub(crate) fn verify_by(
        &self,
        chain: &PckChain,
        collateral: &Collateral,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<VerifiedQuote, TdxError> {
        // The library accepts only bytes and parses them again. Everything that we report comes from its reading;
        // `conclude` refuses the quote if ours, on which the earlier checks were made, differs. The library gets the PCK
        // chain from us and does not look for one in the quote.
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

    /// The chain that came with the collateral, else the one in it.
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

    /// Whether it carries the chain of its platform's certificate itself.
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
