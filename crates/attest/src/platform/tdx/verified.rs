//! Verification of a TDX quote with collateral and a root.

use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};

use super::error::{PPID_BYTES, reason};
use super::{Rejection, Shortfall, TdQuote, TdReport, TdxError};
use crate::collateral::{Collateral, CollateralError, Dcap, PckChain};
use crate::tcb::{PlatformTcb, TcbGap, TcbStatus, TcbVerdict, is_known};
use crate::trust::TrustAnchors;

/// A verified quote. Only [`verify_quote`] creates one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote {
    td: TdReport,
    status: String,
    platform_status: String,
    qe_status: String,
    verdict: TcbVerdict,
    platform: PlatformTcb,
    ppid: [u8; PPID_BYTES],
}

impl VerifiedQuote {
    /// The TD report.
    pub fn td(&self) -> &TdReport {
        &self.td
    }

    /// The combined TCB status of platform, TDX module and quoting enclave, as Intel spells it; never
    /// `Revoked`.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// TCB status of platform and TDX module.
    pub fn platform_status(&self) -> &str {
        &self.platform_status
    }

    /// TCB status of the quoting enclave.
    pub fn qe_status(&self) -> &str {
        &self.qe_status
    }

    /// Advisories that apply, without duplicates.
    pub fn advisory_ids(&self) -> &[String] {
        &self.verdict.advisory_ids
    }

    /// Intel's verdict on the platform.
    pub fn verdict(&self) -> &TcbVerdict {
        &self.verdict
    }

    /// The platform's security versions.
    pub fn platform(&self) -> &PlatformTcb {
        &self.platform
    }

    /// The PPID in the platform's PCK certificate.
    pub fn ppid(&self) -> &[u8; PPID_BYTES] {
        &self.ppid
    }
}

/// Verifies `quote` at `now` (Unix seconds): signatures up to the TDX root of `anchors`, revocation, TCB
/// levels, and the TD's isolation. A TCB status other than `Revoked` is accepted here; policy decides about
/// it.
pub fn verify_quote(
    quote: &[u8],
    collateral: &Collateral,
    anchors: &TrustAnchors,
    now: u64,
) -> Result<VerifiedQuote, TdxError> {
    TdQuote::parse(quote)?.verify(collateral, anchors, now)
}

impl TdQuote<'_> {
    /// [`verify_quote`] of this quote.
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
            claims(self.bytes(), collateral.parts_for(chain.pem()), anchors, now).map_err(|reason| {
                match Shortfall::of(&reason, self, chain, collateral) {
                    Some(shortfall) => TdxError::Unlisted { reason, shortfall: Box::new(shortfall) },
                    None => {
                        let rejection = Rejection::of(&reason, self.report());
                        TdxError::Rejected { reason, rejection }
                    }
                }
            })?;
        conclude(claims, self, chain, collateral)
    }

    /// The chain in the collateral, otherwise the one in the quote.
    fn chain(&self, collateral: &Collateral) -> Result<PckChain, TdxError> {
        let chain = collateral.pck_certificate_chain().map(str::as_bytes);
        let chain = chain.or_else(|| self.has_chain().then(|| self.parsed().inner_cert_data()));
        PckChain::read(chain.ok_or(TdxError::NoPckChain)?).map_err(|error| match error {
            CollateralError::PckChain(error) => TdxError::PckChain(error),
            CollateralError::Quote(_)
            | CollateralError::NotATd
            | CollateralError::UntrustedPlatform
            | CollateralError::Unavailable { .. }
            | CollateralError::Malformed(_) => TdxError::Platform,
        })
    }
}

/// The library's verification: its claims, or its error message. It does not decide which status is
/// acceptable.
fn claims(
    quote: &[u8],
    parts: QuoteCollateralV3,
    anchors: &TrustAnchors,
    now: u64,
) -> Result<QuoteClaims, String> {
    QuoteVerifier::<Dcap>::new_with_config(anchors.tdx_root().to_vec())
        .verify_with_policy(quote, parts, now, &QuotePolicy::claims_only(now))
        .map_err(|error| reason(&error))
}

/// Our own checks. Every fact about the TD and its platform is taken from the verified `claims`. `quote` and
/// `chain` were parsed before verification; if they differ from the claims, the quote is refused.
fn conclude(
    claims: QuoteClaims,
    quote: &TdQuote<'_>,
    chain: &PckChain,
    collateral: &Collateral,
) -> Result<VerifiedQuote, TdxError> {
    let td = TdReport::from_report(&claims.report)?;
    td.check_isolation()?;
    let platform = PlatformTcb::of(&claims, collateral.model().ca).ok_or(TdxError::Platform)?;
    if td != *quote.report() || platform.model != chain.platform() {
        return Err(TdxError::Platform);
    }
    let pck = &claims.platform.pck;
    let ppid = pck.ppid.as_slice().try_into().map_err(|_| TdxError::Ppid { bytes: pck.ppid.len() })?;
    let status = claims.tcb.status;
    if !is_known(status) {
        return Err(TdxError::Status(status.to_string()));
    }
    let parts = collateral.parts();
    let gap = (status != TcbStatus::UpToDate)
        .then(|| TcbGap::read(&platform, status, &parts.tcb_info, &parts.qe_identity))
        .flatten();
    let fmspc = platform.model.fmspc;
    Ok(VerifiedQuote {
        td,
        status: status.to_string(),
        platform_status: claims.platform.tcb_level.tcb_status.to_string(),
        qe_status: claims.qe.tcb_level.tcb_status.to_string(),
        verdict: TcbVerdict { status, advisory_ids: claims.tcb.advisory_ids, fmspc, gap },
        platform,
        ppid,
    })
}

#[cfg(test)]
mod tests;
