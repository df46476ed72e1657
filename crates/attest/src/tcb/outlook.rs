//! What Intel's early TCB set says about the platforms seen lately: their verdict some weeks from now.
//!
//! After a TCB recovery Intel publishes new TCB info and QE identity twice: at once for who asks for `update=early`,
//! commonly some six weeks later for everyone else. The early documents are verified like the others, and the quotes
//! that were seen are judged by them once more.

use std::sync::Arc;

use super::seen::Seen;
use super::{PlatformTcb, TcbVerdict};
use crate::collateral::{Collateral, PlatformKey};
use crate::platform::tdx::TdQuote;
use crate::trust::TrustAnchors;
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
    /// Asks for the early set of every model seen lately, and judges the platforms by it, one after the other and
    /// never on the thread of whoever waits: that are two verifications for each of hundreds of platforms. What cannot
    /// be had is counted and left out.
    pub async fn outlook(&self) -> Outlook {
        let mut outlook = Outlook::default();
        let Some(seen) = self.seen() else { return outlook };
        let mut platforms = seen.lately(self.cache().clock().now());
        let mut models: Vec<PlatformKey> = platforms.iter().map(|seen| seen.platform.model).collect();
        models.dedup();
        models.truncate(MAX_MODELS);
        for model in models {
            let of_model = platforms.extract_if(.., |seen| seen.platform.model == model).collect();
            match self.sets(model).await {
                None => outlook.early_sets.unavailable += 1,
                Some((standard, early)) if early.evaluation_number() <= standard.evaluation_number() => {
                    outlook.early_sets.same += 1;
                }
                Some((standard, early)) => {
                    outlook.early_sets.newer += 1;
                    let anchors = self.anchors().clone();
                    let judge = Judge { standard, early, anchors, now: self.cache().clock().now() };
                    outlook.forecasts.extend(Arc::new(judge).forecasts(of_model).await);
                }
            }
        }
        outlook
    }

    /// The standard and the early set of a model.
    async fn sets(&self, model: PlatformKey) -> Option<(Arc<Collateral>, Collateral)> {
        let standard = self.cache().of_known(model).await.ok()?;
        match self.cache().early(model, &standard).await {
            Ok(early) => Some((standard, early)),
            Err(failure) => {
                tracing::debug!(fmspc = hex::encode(model.fmspc), %failure, "no early tcb set");
                None
            }
        }
    }
}

/// Both sets of a model, and what it takes to verify by them.
struct Judge {
    standard: Arc<Collateral>,
    early: Collateral,
    anchors: TrustAnchors,
    now: u64,
}

impl Judge {
    /// Of the platforms that verify today. Each is a short task of its own for the threads that may block: no more than
    /// one runs at a time, and no more than one is left when nobody waits any longer.
    async fn forecasts(self: Arc<Self>, platforms: Vec<Seen>) -> Vec<Forecast> {
        let mut forecasts = Vec::new();
        for seen in platforms {
            let judge = Arc::clone(&self);
            let forecast = tokio::task::spawn_blocking(move || judge.forecast(&seen)).await;
            forecasts.extend(forecast.ok().flatten());
        }
        forecasts
    }

    /// `None` if the platform does not verify today either.
    fn forecast(&self, seen: &Seen) -> Option<Forecast> {
        let quote = TdQuote::parse(&seen.quote).ok()?;
        let verified = |set: &Collateral| match &seen.pck_chain {
            Some(chain) => {
                quote.verify(&set.with_pck_certificate_chain(chain.clone()), &self.anchors, self.now)
            }
            None => quote.verify(set, &self.anchors, self.now),
        };
        let today = verified(&self.standard).ok()?.verdict().clone();
        let ahead = match verified(&self.early) {
            Ok(verified) => Ahead::Verdict(verified.verdict().clone()),
            Err(refusal) => Ahead::Refused(refusal.to_string()),
        };
        Some(Forecast { platform: seen.platform, seen_at: seen.at, today, ahead })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::collateral::testing::vector;
    use crate::platform::tdx::verify_quote;

    const NAME: &str = "fixtures/dcap-qvl/tdx_quote";

    #[tokio::test(flavor = "current_thread")]
    async fn others_have_their_turn_between_platforms() {
        let quote = vector(&format!("{NAME}.bin"));
        let set = Collateral::from_json(&vector(&format!("{NAME}_collateral.json"))).unwrap();
        let (anchors, now) = (TrustAnchors::intel(), 1_751_000_000);
        let platform = *verify_quote(&quote, &set, &anchors, now).unwrap().platform();
        let seen = |at| Seen { platform, quote: quote.clone(), pck_chain: None, at };
        let platforms: Vec<Seen> = (0..8).map(seen).collect();
        let judge = Judge { standard: Arc::new(set.clone()), early: set, anchors, now };

        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let forecasts = Arc::new(judge).forecasts(platforms).await;
        other.abort();
        assert_eq!(
            forecasts.iter().map(|forecast| forecast.seen_at).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        for forecast in &forecasts {
            assert_eq!(forecast.ahead, Ahead::Verdict(forecast.today.clone()));
        }
        assert!(turns.load(Ordering::Relaxed) > 0, "this thread was held all the time");
    }
}
