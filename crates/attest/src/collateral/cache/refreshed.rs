//! Fetching everything again at once, because an operator says so.

use std::sync::Arc;

use super::{CollateralCache, MAX_FETCHES, finished};
use crate::collateral::{Collateral, CollateralError, Numbers, PlatformKey};

/// What a forced refresh came to, for one model.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// The model.
    pub platform: PlatformKey,
    /// The numbers of what was held before.
    pub before: Numbers,
    /// What is held now, or why it is what was held before.
    pub outcome: Result<Arc<Collateral>, CollateralError>,
}

impl CollateralCache {
    /// Fetches the collateral of every model that is held, now, and forgets which models could not be fetched recently. What is
    /// held stays in use until there is newer. Evidence that was verified before counts as not verified from now on, so
    /// that new collateral judges who is connected already.
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

    /// Rises with each [`CollateralCache::refresh_all`]: what was verified under an earlier one is verified again.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(std::sync::atomic::Ordering::Relaxed)
    }
}
