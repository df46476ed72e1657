//! Fetches the early TCB sets of recently seen platforms and evaluates the platforms by them.

use std::sync::Arc;

use super::Verifier;
use crate::collateral::{Collateral, PlatformKey};
use crate::platform::tdx::TdQuote;
use crate::tcb::{EarlyVerdict, Seen, TcbForecast, TcbForecasts};
use crate::trust::TrustAnchors;

/// Maximum number of models per run.
const MAX_MODELS: usize = 64;

impl Verifier {
    /// Fetches the early set of every recently seen model and evaluates its platforms by it, one after the
    /// other on blocking threads: each platform costs two verifications, and there may be hundreds. Models
    /// without an early set are only counted.
    pub async fn tcb_forecasts(&self) -> TcbForecasts {
        let mut found = TcbForecasts::default();
        let Some(seen) = &self.seen else { return found };
        let mut platforms = seen.recent(self.cache().clock().now());
        let mut models: Vec<PlatformKey> = platforms.iter().map(|seen| seen.platform.model).collect();
        models.dedup();
        models.truncate(MAX_MODELS);
        for model in models {
            let of_model = platforms.extract_if(.., |seen| seen.platform.model == model).collect();
            match self.sets(model).await {
                None => found.early_sets.unavailable += 1,
                Some((standard, early)) if early.evaluation_number() <= standard.evaluation_number() => {
                    found.early_sets.same += 1;
                }
                Some((standard, early)) => {
                    found.early_sets.newer += 1;
                    let anchors = self.anchors().clone();
                    let judge = Judge { standard, early, anchors, now: self.cache().clock().now() };
                    found.forecasts.extend(Arc::new(judge).forecasts(of_model).await);
                }
            }
        }
        found
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

/// Both sets of a model, with all that a verification by them needs.
struct Judge {
    standard: Arc<Collateral>,
    early: Collateral,
    anchors: TrustAnchors,
    now: u64,
}

impl Judge {
    /// The forecasts of the platforms that verify today. Each is a short blocking task: at most one runs at a
    /// time, and at most one is left if the caller stops waiting.
    async fn forecasts(self: Arc<Self>, platforms: Vec<Seen>) -> Vec<TcbForecast> {
        let mut forecasts = Vec::new();
        for seen in platforms {
            let judge = Arc::clone(&self);
            let forecast = tokio::task::spawn_blocking(move || judge.forecast(&seen)).await;
            forecasts.extend(forecast.ok().flatten());
        }
        forecasts
    }

    /// `None` if the platform does not verify today.
    fn forecast(&self, seen: &Seen) -> Option<TcbForecast> {
        let quote = TdQuote::parse(&seen.quote).ok()?;
        let verified = |set: &Collateral| match &seen.pck_chain {
            Some(chain) => {
                quote.verify(&set.with_pck_certificate_chain(chain.clone()), &self.anchors, self.now)
            }
            None => quote.verify(set, &self.anchors, self.now),
        };
        let today = verified(&self.standard).ok()?.verdict().clone();
        let early = match verified(&self.early) {
            Ok(verified) => EarlyVerdict::Verdict(verified.verdict().clone()),
            Err(refusal) => EarlyVerdict::Refused(refusal.to_string()),
        };
        Some(TcbForecast { platform: seen.platform, seen_at: seen.at, today, early })
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
            assert_eq!(forecast.early, EarlyVerdict::Verdict(forecast.today.clone()));
        }
        assert!(turns.load(Ordering::Relaxed) > 0, "this thread was held all the time");
    }
}
