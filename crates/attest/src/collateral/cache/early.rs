//! Intel's early TCB set of a model: fetched in addition to the standard one, never used for decisions, never
//! cached.

use std::sync::Arc;

use tokio::time::timeout;

use super::{CollateralCache, finished};
use crate::collateral::{Collateral, CollateralError, FetchFailure, PlatformKey, TcbSet};

impl CollateralCache {
    /// Collateral of a model that no quote has named yet: what is held, or else from a service.
    ///
    /// # Errors
    /// No service has usable collateral of it.
    pub async fn of_model(&self, model: PlatformKey) -> Result<Arc<Collateral>, CollateralError> {
        self.of_known(model).await
    }

    /// Collateral of a model seen before: from the cache, otherwise fetched.
    pub(crate) async fn of_known(&self, model: PlatformKey) -> Result<Arc<Collateral>, CollateralError> {
        self.loaded().await;
        let fetch = {
            let entries = self.entries();
            if let Some(kept) = entries.look(model, self.clock().now()) {
                return Ok(kept);
            }
            self.join_fetch(model)
        };
        finished(fetch).await
    }

    /// `standard` with Intel's early TCB info and QE identity, from the first service that has them. A
    /// service without an early set does not count as failed.
    pub(crate) async fn early(
        &self,
        model: PlatformKey,
        standard: &Collateral,
    ) -> Result<Collateral, FetchFailure> {
        let options = &self.shared.options;
        if options.is_offline {
            return Err(FetchFailure::Offline);
        }
        let over_all = async {
            let _turn = self.shared.upstream.acquire().await;
            let mut last = FetchFailure::Abandoned;
            for endpoint in self.endpoints_in_order() {
                let request = async {
                    let early = endpoint.pccs.early(model, standard, self.clock()).await?;
                    // A set that is not newer is the standard one, from a service that ignores the parameter.
                    if early.evaluation_number() > standard.evaluation_number() {
                        self.raise_floors(&early, TcbSet::Early).await?;
                    }
                    Ok(early)
                };
                match timeout(options.endpoint_deadline, request).await {
                    Ok(Ok(early)) => return Ok(early),
                    Ok(Err(failure)) => last = failure,
                    Err(_) => last = FetchFailure::Deadline,
                }
            }
            Err(last)
        };
        timeout(options.deadline, over_all).await.unwrap_or(Err(FetchFailure::Deadline))
    }
}
