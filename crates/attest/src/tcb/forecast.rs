//! What Intel's early TCB set says about the platforms seen recently: their verdict some weeks from now.
//!
//! After a TCB recovery Intel publishes new TCB info and QE identity twice: at once in answer to requests with `update=early`,
//! and about six weeks later in answer to all others. The early documents are verified like the others, and the quotes
//! that were seen are judged by them once more.

use super::{PlatformTcb, TcbVerdict};

/// The forecasts of all platforms seen recently.
#[derive(Debug, Clone, Default)]
pub struct TcbForecasts {
    /// Platforms of which the early set is newer than the standard one.
    pub forecasts: Vec<TcbForecast>,
    /// What is known of the early sets.
    pub early_sets: EarlySets,
}

/// Numbers of platform models, by what is known of their early set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EarlySets {
    /// Newer than the standard set.
    pub newer: usize,
    /// The same as the standard set. Also what a service looks like that does not know `update=early`.
    pub same: usize,
    /// Not available.
    pub unavailable: usize,
}

/// A platform's verdict today, and by the early set.
#[derive(Debug, Clone)]
pub struct TcbForecast {
    /// The platform.
    pub platform: PlatformTcb,
    /// Unix seconds at which it was last seen.
    pub seen_at: u64,
    /// By the standard set.
    pub today: TcbVerdict,
    /// By the early set.
    pub early: EarlyVerdict,
}

/// The verdict on a platform by the early set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlyVerdict {
    /// It verifies.
    Verdict(TcbVerdict),
    /// It is refused: revoked, or below every level. The verifier's words.
    Refused(String),
}
