//! A parsed TDX quote.

use dcap_qvl::quote::Quote;

use super::error::reason;
use super::{TdReport, TdxError};

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
}

impl TdReport {
    /// The body of `quote`, **not** verified.
    pub fn parse(quote: &[u8]) -> Result<Self, TdxError> {
        Ok(TdQuote::parse(quote)?.report)
    }
}
