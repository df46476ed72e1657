//! A TDX quote that was parsed once, for everyone who looks into it.

use dcap_qvl::quote::Quote;

use super::{TdReport, TdxError, VerifiedQuote, conclude, reason, report};
use crate::collateral::{Collateral, PckLeaf};
use crate::trust::TrustAnchors;

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
        let report = report(self.bytes, collateral, anchors, now)?;
        conclude(report, self, collateral, self.leaf(collateral)?)
    }

    /// [`TdQuote::verify`], where it is known already what the PCK certificate says.
    pub(crate) fn verify_of(
        &self,
        leaf: PckLeaf,
        collateral: &Collateral,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<VerifiedQuote, TdxError> {
        // The library takes bytes only, so this is the second time that they are parsed, and the last.
        conclude(report(self.bytes, collateral, anchors, now)?, self, collateral, leaf)
    }

    /// What its PCK certificate says: the one that came with the collateral, else the one in it, as for the library.
    pub(super) fn leaf(&self, collateral: &Collateral) -> Result<PckLeaf, TdxError> {
        let chain = collateral.pck_certificate_chain().map(str::as_bytes);
        PckLeaf::first_of(chain.unwrap_or_else(|| self.parsed.inner_cert_data()))
            .map_err(|_| TdxError::Platform)
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
