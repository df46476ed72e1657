//! The background task that refreshes collateral before it expires.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{CollateralCache, finished};

/// Delay before a failed background refresh is repeated.
pub(super) const REFRESH_RETRY_SECONDS: u64 = 300;

/// A handle on the refresh task of a cache.
#[derive(Debug)]
#[must_use = "the refresh stops when this is dropped"]
pub struct RefreshTask(JoinHandle<()>);

impl RefreshTask {
    fn spawn(cache: CollateralCache, every: Duration) -> Self {
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

impl CollateralCache {
    /// Starts the task that refreshes entries before they expire. It stops when the handle is dropped.
    pub fn spawn_refresh(&self) -> RefreshTask {
        RefreshTask::spawn(self.clone(), self.shared.options.refresh_every)
    }

    /// Fetches every entry that is due and drops expired ones. After a failed fetch the entry stays in use.
    pub(super) async fn refresh_due(&self) {
        self.retry_unwritten().await;
        if self.is_offline() {
            return;
        }
        let due = self.entries().due(self.clock().now());
        for platform in due {
            let fetch = self.join_fetch(platform);
            if finished(fetch).await.is_err() {
                let later = self.clock().now().saturating_add(REFRESH_RETRY_SECONDS);
                self.entries().postpone(platform, later);
            }
        }
    }
}
