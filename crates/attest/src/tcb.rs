//! The security versions of a platform, Intel's verdict on them, and the verdict to come.

mod forecast;
mod gap;
mod seen;

use dcap_qvl::QuoteClaims;
pub use dcap_qvl::TcbStatus;

pub use self::forecast::{EarlySets, EarlyVerdict, TcbForecast, TcbForecasts};
pub use self::gap::{PartGap, TcbGap, TcbPart};
pub(crate) use self::seen::Seen;
pub use self::seen::SeenPlatforms;
use crate::collateral::{CaKind, PlatformKey};

/// Every status besides `UpToDate` that a verified platform can have. A `Revoked` platform does not verify.
pub const TOLERABLE: [TcbStatus; 7] = [
    TcbStatus::SWHardeningNeeded,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::ConfigurationAndSWHardeningNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::TDRelaunchAdvised,
    TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
];

/// Whether a verified platform can have this status: not `Revoked`, and not a status that the library adds
/// later.
pub(crate) fn is_known(status: TcbStatus) -> bool {
    status == TcbStatus::UpToDate || TOLERABLE.contains(&status)
}

/// The security versions that TCB info and QE identity are compared with. Platforms with the same versions
/// get the same verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformTcb {
    /// FMSPC and PCK CA.
    pub model: PlatformKey,
    /// CPUSVN of the PCK certificate, by component.
    pub cpu_svn: [u8; 16],
    /// PCESVN of the PCK certificate.
    pub pce_svn: u16,
    /// TEE_TCB_SVN of the quote: the TDX module's versions at launch of the TD.
    pub tee_tcb_svn: [u8; 16],
    /// TEE_TCB_SVN2 of the quote: the current versions. TD 1.5 only.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// ISVSVN of the quoting enclave.
    pub qe_isv_svn: u16,
}

impl PlatformTcb {
    /// The versions in the claims of a verified quote; `ca` is the PCK CA whose CRL was checked.
    pub(crate) fn of(claims: &QuoteClaims, ca: CaKind) -> Option<Self> {
        let pck = &claims.platform.pck;
        Some(Self {
            model: PlatformKey { fmspc: pck.fmspc, ca },
            cpu_svn: pck.cpu_svn,
            pce_svn: pck.pce_svn,
            tee_tcb_svn: claims.report.as_td10()?.tee_tcb_svn,
            tee_tcb_svn2: claims.report.as_td15().map(|td| td.tee_tcb_svn2),
            qe_isv_svn: claims.qe.report.isv_svn,
        })
    }
}

/// Intel's verdict on a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbVerdict {
    /// The status of platform, TDX module and quoting enclave, combined by Intel's rules; never `Revoked`. It
    /// hides some parts: see `gap`.
    pub status: TcbStatus,
    /// Advisories that apply, without duplicates.
    pub advisory_ids: Vec<String>,
    /// FMSPC.
    pub fmspc: [u8; 6],
    /// How far the platform is behind; `None` if it is `UpToDate`, or if the collateral does not tell.
    pub gap: Option<TcbGap>,
}
