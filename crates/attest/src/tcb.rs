//! The security versions of a platform, Intel's verdict on them, and the verdict to come.

mod forecast;
mod gap;
mod platform;
mod seen;

pub use dcap_qvl::TcbStatus;

pub use self::forecast::{EarlySets, EarlyVerdict, TcbForecast, TcbForecasts};
pub use self::gap::{PartGap, TcbGap, TcbPart};
pub use self::platform::PlatformTcb;
pub(crate) use self::seen::Seen;
pub use self::seen::SeenPlatforms;

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
