//! TDX quotes: their TD report, and their verification with collateral and a root.

mod evidence;
mod identity;
pub mod image;
mod quote;
mod quoted;
mod rejection;
mod shortfall;

use dcap_qvl::quote::{Report, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};

pub use self::evidence::Tdx;
pub(crate) use self::identity::decode;
pub use self::identity::tdx_identity;
pub use self::quote::TdQuote;
pub use self::quoted::{Quoted, QuotedError};
pub use self::rejection::Rejection;
pub use self::shortfall::Shortfall;
use crate::collateral::{ChainError, Collateral, Dcap, PckChain};
use crate::tcb::{PlatformTcb, TcbGap, TcbStatus, TcbVerdict, is_known};
use crate::trust::TrustAnchors;

/// The TDATTRIBUTES bits that a TD may have: SEPT_VE_DISABLE (28), PKS (30) and KL (31). All others are
/// refused: the debug byte, reserved bits, migration, and PERFMON (63), which the library accepts and the
/// peer refuses.
const PERMITTED_ATTRIBUTES: u64 = SEPT_VE_DISABLE | 1 << 30 | 1 << 31;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const DEBUG_BYTE: u64 = 0xff;

/// Length of a PPID, bytes.
const PPID_BYTES: usize = 16;

/// Maximum length of a message of the library, because part of it may come from the quote's sender.
const MAX_REASON_CHARS: usize = 400;

/// The body of a TDX quote, version 1.0 or 1.5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// TEE_TCB_SVN: security versions of the TDX module.
    pub tee_tcb_svn: [u8; 16],
    /// MRSEAM: measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// MRSIGNERSEAM: signer of the TDX module, zero for Intel's.
    pub mr_signer_seam: [u8; 48],
    /// SEAMATTRIBUTES.
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES, little-endian in the quote.
    pub td_attributes: u64,
    /// XFAM: the extended features that the TD may use.
    pub xfam: [u8; 8],
    /// The fields that identify the guest, and its report data.
    pub quoted: Quoted,
    /// TEE_TCB_SVN2: current security versions of the TDX module. In TD 1.5 bodies only.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// MRSERVICETD, in TD 1.5 bodies only.
    pub mr_service_td: Option<[u8; 48]>,
}

impl TdReport {
    /// The body of `quote`, **not** verified.
    pub fn parse(quote: &[u8]) -> Result<Self, TdxError> {
        Ok(TdQuote::parse(quote)?.into_report())
    }

    fn from_report(report: &Report) -> Result<Self, TdxError> {
        match report {
            Report::SgxEnclave(_) => Err(TdxError::NotATd),
            Report::TD10(body) => Ok(Self::from_body(body)),
            Report::TD15(body) => Ok(Self {
                tee_tcb_svn2: Some(body.tee_tcb_svn2),
                mr_service_td: Some(body.mr_service_td),
                ..Self::from_body(&body.base)
            }),
            Report::TD15Ex(_) => Err(TdxError::UnsupportedBody),
        }
    }

    fn from_body(body: &TDReport10) -> Self {
        Self {
            tee_tcb_svn: body.tee_tcb_svn,
            mr_seam: body.mr_seam,
            mr_signer_seam: body.mr_signer_seam,
            seam_attributes: body.seam_attributes,
            td_attributes: u64::from_le_bytes(body.td_attributes),
            xfam: body.xfam,
            quoted: body.into(),
            tee_tcb_svn2: None,
            mr_service_td: None,
        }
    }

    /// Our own checks beside the library's: no other party may read or change the TD's memory.
    ///
    /// # Errors
    /// [`TdxError::Debug`], [`TdxError::Attributes`], [`TdxError::SeptVeEnabled`], [`TdxError::ForeignModule`],
    /// [`TdxError::ServiceTd`].
    pub fn check_isolation(&self) -> Result<(), TdxError> {
        if self.td_attributes & DEBUG_BYTE != 0 {
            return Err(TdxError::Debug);
        }
        if self.td_attributes & !PERMITTED_ATTRIBUTES != 0 {
            return Err(TdxError::Attributes(self.td_attributes & !PERMITTED_ATTRIBUTES));
        }
        if self.td_attributes & SEPT_VE_DISABLE == 0 {
            return Err(TdxError::SeptVeEnabled);
        }
        if self.mr_signer_seam != [0; 48] {
            return Err(TdxError::ForeignModule);
        }
        if self.mr_service_td.is_some_and(|register| register != [0; 48]) {
            return Err(TdxError::ServiceTd);
        }
        Ok(())
    }
}

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

/// A library error with its causes, on one line of bounded length.
fn reason(error: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("{error:#}").chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}

/// Why a TDX quote is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// The bytes are not a quote.
    #[error("failed to parse TDX quote: {0}")]
    Malformed(String),
    /// The quote verifier refused the quote.
    #[error("failed to verify TDX quote: {reason}")]
    Rejected {
        /// Its message.
        reason: String,
        /// The kind of refusal.
        rejection: Rejection,
    },
    /// Security versions below every level that Intel lists. All signatures were verified before; for the
    /// quoting enclave, those up to its own report.
    #[error("failed to verify TDX quote: {reason}: {shortfall}")]
    Unlisted {
        /// The quote verifier's message.
        reason: String,
        /// The versions that are too low.
        shortfall: Box<Shortfall>,
    },
    /// The quote is of an SGX enclave.
    #[error("no td report")]
    NotATd,
    /// A TD report version later than 1.5.
    #[error("td report of this version is not supported")]
    UnsupportedBody,
    /// A bit of TDATTRIBUTES' debug byte is set.
    #[error("debug mode is enabled")]
    Debug,
    /// TDATTRIBUTES bits that are reserved or not accepted.
    #[error("td attributes {0:#018x} are not accepted")]
    Attributes(u64),
    /// SEPT_VE_DISABLE is clear.
    #[error("SEPT_VE_DISABLE is not enabled")]
    SeptVeEnabled,
    /// The TDX module is not Intel's.
    #[error("mr_signer_seam is not zero")]
    ForeignModule,
    /// A service TD is bound to the TD.
    #[error("mr_service_td is not zero")]
    ServiceTd,
    /// The PCK certificate chain has the wrong form.
    #[error("failed to verify TDX quote: pck certificate chain {0}")]
    PckChain(ChainError),
    /// There is no PCK certificate chain in the quote or the collateral.
    #[error("failed to verify TDX quote: no pck certificate chain")]
    NoPckChain,
    /// The PCK certificate lacks a value, or has another than was verified.
    #[error("the platform's security versions do not parse")]
    Platform,
    /// A TCB status that this program does not know.
    #[error("unknown tcb status {0}")]
    Status(String),
    /// The PPID in the PCK certificate has the wrong length.
    #[error("ppid must be {PPID_BYTES} bytes, got {bytes}")]
    Ppid {
        /// The length found.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests;
