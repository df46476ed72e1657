//! The background task that refreshes collateral before it expires.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::CollateralCache;

/// A handle on the refresh task of a cache.
#[derive(Debug)]
#[must_use = "the refresh stops when this is dropped"]
pub struct RefreshTask(JoinHandle<()>);

impl RefreshTask {
    pub(super) fn spawn(cache: CollateralCache, every: Duration) -> Self {
        Self(tokio::spawn(async move {
            cache.loaded().await;
            loop {
                cache.refresh_due().await;
                tokio::time::sleep(every).await;
            }
        }))
    }
}

impl Drop for RefreshTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
