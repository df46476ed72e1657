//! What Intel's early TCB set says about the platforms seen lately: their verdict some weeks from now.
//!
//! After a TCB recovery Intel publishes new TCB info and QE identity twice: at once for who asks for `update=early`,
//! commonly some six weeks later for everyone else. The early documents are verified like the others, and the quotes
//! that were seen are judged by them once more.

use super::seen::Seen;
use super::{PlatformTcb, TcbVerdict};
use crate::collateral::{Collateral, PlatformKey};
use crate::platform::tdx::TdQuote;
use crate::verify::Verifier;

/// Models asked about in one look.
const MAX_MODELS: usize = 64;

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

impl Verifier {
    /// Asks for the early set of every model seen lately, and judges the platforms by it. What cannot be had is
    /// counted and left out.
    pub async fn outlook(&self) -> Outlook {
        let mut outlook = Outlook::default();
        let Some(seen) = self.seen() else { return outlook };
        let seen = seen.lately(self.cache().clock().now());
        let mut models: Vec<PlatformKey> = seen.iter().map(|seen| seen.platform.model).collect();
        models.dedup();
        models.truncate(MAX_MODELS);
        for model in models {
            match self.sets(model).await {
                None => outlook.early_sets.unavailable += 1,
                Some((standard, early)) if early.evaluation_number() <= standard.evaluation_number() => {
                    outlook.early_sets.same += 1;
                }
                Some((standard, early)) => {
                    outlook.early_sets.newer += 1;
                    let platforms = seen.iter().filter(|seen| seen.platform.model == model);
                    let forecasts = platforms.filter_map(|seen| self.forecast(seen, &standard, &early));
                    outlook.forecasts.extend(forecasts);
                }
            }
        }
        outlook
    }

    /// The standard and the early set of a model.
    async fn sets(&self, model: PlatformKey) -> Option<(Collateral, Collateral)> {
        let standard = self.cache().of_known(model).await.ok()?;
        match self.cache().early(model, &standard).await {
            Ok(early) => Some((Collateral::clone(&standard), early)),
            Err(failure) => {
                tracing::debug!(fmspc = hex::encode(model.fmspc), %failure, "no early tcb set");
                None
            }
        }
    }

    /// `None` if the platform does not verify today either.
    fn forecast(&self, seen: &Seen, standard: &Collateral, early: &Collateral) -> Option<Forecast> {
        let quote = TdQuote::parse(&seen.quote).ok()?;
        let judge = |set: &Collateral| {
            let set = match &seen.pck_chain {
                Some(chain) => set.with_pck_certificate_chain(chain.clone()),
                None => set.clone(),
            };
            quote.verify(&set, self.anchors(), self.cache().clock().now())
        };
        let today = judge(standard).ok()?.verdict().clone();
        let ahead = match judge(early) {
            Ok(verified) => Ahead::Verdict(verified.verdict().clone()),
            Err(refusal) => Ahead::Refused(refusal.to_string()),
        };
        Some(Forecast { platform: seen.platform, seen_at: seen.at, today, ahead })
    }
}
