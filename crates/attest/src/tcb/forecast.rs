//! The verdict of Intel's early TCB set on recently seen platforms: their verdict some weeks from now.
//!
//! After a TCB recovery Intel publishes new TCB info and QE identity twice: at once for requests with
//! `update=early`, and about six weeks later for all others. The early documents are verified like the
//! standard ones, and the stored quotes are judged by them.

use super::{PlatformTcb, TcbVerdict};

/// The forecasts of all recently seen platforms.
#[derive(Debug, Clone, Default)]
pub struct TcbForecasts {
    /// Platforms whose early set is newer than the standard one.
    pub forecasts: Vec<TcbForecast>,
    /// Availability of the early sets.
    pub early_sets: EarlySets,
}

/// Number of platform models by the state of their early set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EarlySets {
    /// Newer than the standard set.
    pub newer: usize,
    /// The same as the standard set, also if the service ignores `update=early`.
    pub same: usize,
    /// Not available.
    pub unavailable: usize,
}

/// A platform's verdict today and by the early set.
#[derive(Debug, Clone)]
pub struct TcbForecast {
    /// The platform.
    pub platform: PlatformTcb,
    /// When it was last verified, Unix seconds.
    pub seen_at: u64,
    /// By the standard set.
    pub today: TcbVerdict,
    /// By the early set.
    pub early: EarlyVerdict,
}

/// The verdict of the early set on a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlyVerdict {
    /// The platform verifies.
    Verdict(TcbVerdict),
    /// The platform is refused: revoked, or below every level. The verifier's message.
    Refused(String),
}
