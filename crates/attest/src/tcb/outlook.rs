//! What Intel's early TCB set says about the platforms seen lately: their verdict some weeks from now.
//!
//! After a TCB recovery Intel publishes new TCB info and QE identity twice: at once for who asks for `update=early`,
//! commonly some six weeks later for everyone else. The early documents are verified like the others, and the quotes
//! that were seen are judged by them once more.

use super::{PlatformTcb, TcbVerdict};

/// What is to come, for the platforms seen lately.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// Platforms of which the early set is newer than the standard one.
    pub forecasts: Vec<Forecast>,
    /// What is known of the early sets.
    pub early_sets: EarlySets,
}

/// Of how many platform models the early set is what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EarlySets {
    /// Newer than the standard set.
    pub newer: usize,
    /// The same as the standard set. Also what a service looks like that does not know `update=early`.
    pub same: usize,
    /// Not to be had.
    pub unavailable: usize,
}

/// A platform's verdict today, and by the early set.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Whose.
    pub platform: PlatformTcb,
    /// Unix seconds at which it was last seen.
    pub seen_at: u64,
    /// By the standard set.
    pub today: TcbVerdict,
    /// By the early set.
    pub ahead: Ahead,
}

/// What the early set makes of a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ahead {
    /// It verifies.
    Verdict(TcbVerdict),
    /// It is refused: revoked, or below every level. The verifier's words.
    Refused(String),
}
