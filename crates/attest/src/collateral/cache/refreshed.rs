//! A refresh of all entries at once, on an operator's request.

use std::sync::Arc;

use super::{CollateralCache, MAX_FETCHES, finished};
use crate::collateral::{Collateral, CollateralError, Numbers, PlatformKey};

/// The result of a forced refresh for one model.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// The model.
    pub platform: PlatformKey,
    /// The version numbers before the refresh.
    pub before: Numbers,
    /// The new collateral, or why the previous one stays in use.
    pub outcome: Result<Arc<Collateral>, CollateralError>,
}

impl CollateralCache {
    /// Fetches the collateral of every cached model now, and forgets failed fetches. Cached collateral stays
    /// in use until it is replaced. Raises the generation, so that evidence verified before, also that of
    /// open connections, is verified again with the new collateral.
    pub async fn refresh_all(&self) -> Vec<Refreshed> {
        let held = {
            let mut entries = self.entries();
            entries.forget_refusals();
            entries.held()
        };
        let mut refreshed = Vec::new();
        for some in held.chunks(MAX_FETCHES / 2) {
            let fetches: Vec<_> = some
                .iter()
                .map(|(platform, before)| (*platform, *before, self.join_fetch(*platform)))
                .collect();
            for (platform, before, fetch) in fetches {
                refreshed.push(Refreshed { platform, before, outcome: finished(fetch).await });
            }
        }
        self.shared.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        refreshed
    }

    /// Rises with each [`CollateralCache::refresh_all`]: evidence verified under an earlier generation is
    /// verified again.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(std::sync::atomic::Ordering::Relaxed)
    }
}
