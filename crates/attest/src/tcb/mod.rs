//! The security versions of a platform, what Intel makes of them, and what it is about to make of them.

mod lag;
mod outlook;
mod seen;

pub use dcap_qvl::TcbStatus;
use dcap_qvl::quote::Quote;

pub use self::lag::{Lag, Objection, TcbPart};
pub use self::outlook::{Ahead, EarlySets, Forecast, Outlook};
pub use self::seen::SeenPlatforms;
use crate::collateral::{PckLeaf, PlatformKey};

/// Where the ISVSVN stands in the report of a quoting enclave.
const QE_ISV_SVN: usize = 258;

/// Every status that a verified platform can have, besides `UpToDate`. `Revoked` is not one: it does not verify.
pub const TOLERABLE: [TcbStatus; 7] = [
    TcbStatus::SWHardeningNeeded,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::ConfigurationAndSWHardeningNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::TDRelaunchAdvised,
    TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
];

/// The status of a verified platform by Intel's word for it; `None` for `Revoked` and for what is no word of Intel's.
pub fn status_of(word: &str) -> Option<TcbStatus> {
    [TcbStatus::UpToDate].into_iter().chain(TOLERABLE).find(|status| status.to_string() == word)
}

/// The security versions of a platform: what TCB info and QE identity are compared with. Platforms with the same
/// versions get the same verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformTcb {
    /// The model, and whose CRL applies to it.
    pub model: PlatformKey,
    /// CPUSVN of the PCK certificate, by component.
    pub cpu_svn: [u8; 16],
    /// PCESVN of the PCK certificate.
    pub pce_svn: u16,
    /// TEE_TCB_SVN of the quote: the TDX module's versions when the TD was launched.
    pub tee_tcb_svn: [u8; 16],
    /// TEE_TCB_SVN2 of the quote: the same now. TD 1.5 only.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// ISVSVN of the quoting enclave.
    pub qe_isv_svn: u16,
}

impl PlatformTcb {
    /// The versions in `quote` and in its platform's certificate. They are as true as the quote.
    pub(crate) fn read(quote: &Quote, leaf: &PckLeaf) -> Option<Self> {
        let qe_report = quote.qe_report();
        Some(Self {
            model: leaf.platform,
            cpu_svn: leaf.cpu_svn,
            pce_svn: leaf.pce_svn,
            tee_tcb_svn: quote.report.as_td10()?.tee_tcb_svn,
            tee_tcb_svn2: quote.report.as_td15().map(|td| td.tee_tcb_svn2),
            qe_isv_svn: u16::from_le_bytes([qe_report[QE_ISV_SVN], qe_report[QE_ISV_SVN + 1]]),
        })
    }
}

/// What Intel says of a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbVerdict {
    /// Worst status of platform, TDX module and quoting enclave, as Intel combines them; never `Revoked`. It does not
    /// show everything that is wrong: `lag` has the parts.
    pub status: TcbStatus,
    /// Advisories that apply, without repeats.
    pub advisory_ids: Vec<String>,
    /// The platform's model.
    pub fmspc: [u8; 6],
    /// How far a platform that is not `UpToDate` is behind. `None` also where the collateral does not tell.
    pub lag: Option<Lag>,
}
