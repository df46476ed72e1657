//! Collateral that an operator brings in a file, for machines that reach no service.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;

use super::CollateralCache;
use crate::collateral::{Collateral, FetchFailure, Resource, TcbSet, authentic};

/// The most models in one file.
const MAX_MODELS: usize = 64;

/// A file with collateral: one set, or a list of them, in the JSON form of dcap-qvl's `QuoteCollateralV3`.
#[derive(Debug)]
pub struct CollateralBundle(Vec<QuoteCollateralV3>);

/// Why a file with collateral cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BundleError {
    /// Not such a file.
    #[error("is not collateral in the JSON form of dcap-qvl, or a list of it: {0}")]
    Malformed(String),
    /// No set, or too many.
    #[error("must have from 1 to {MAX_MODELS} sets of collateral, got {0}")]
    Count(usize),
    /// A set is not accepted, by the same checks as what a service sends.
    #[error("set {number}: {failure}")]
    Refused {
        /// Its number in the file, from 1.
        number: usize,
        /// The check that failed.
        failure: FetchFailure,
    },
}

fn unparsed() -> FetchFailure {
    FetchFailure::Malformed { resource: Resource::TcbInfo, problem: "collateral does not parse" }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    One(Box<QuoteCollateralV3>),
    Many(Vec<QuoteCollateralV3>),
}

impl CollateralBundle {
    /// The most models in one file.
    pub const MAX_MODELS: usize = MAX_MODELS;

    /// Reads a file.
    ///
    /// # Errors
    /// [`BundleError::Malformed`], [`BundleError::Count`].
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let content = crate::json::from_utf8(json);
        let sets = match content.map_err(|error| BundleError::Malformed(error.to_string()))? {
            Content::One(set) => vec![*set],
            Content::Many(sets) => sets,
        };
        match sets.len() {
            1..=MAX_MODELS => Ok(Self(sets)),
            count => Err(BundleError::Count(count)),
        }
    }
}

impl CollateralCache {
    /// Checks all collateral of a file as if a service had sent it: signatures, dates, subject, and that nothing is older
    /// than seen before. Changes nothing but the clock's floor.
    ///
    /// # Errors
    /// [`BundleError::Refused`].
    pub fn examine(&self, bundle: CollateralBundle) -> Result<Vec<Collateral>, BundleError> {
        let examined = bundle.0.into_iter().enumerate().map(|(index, parts)| {
            self.examined(parts).map_err(|failure| BundleError::Refused { number: index + 1, failure })
        });
        examined.collect()
    }

    fn examined(&self, parts: QuoteCollateralV3) -> Result<Collateral, FetchFailure> {
        let platform = Collateral::new(parts.clone()).map_err(|_| unparsed())?.model();
        let root = self.shared.anchors.tdx_root();
        let collateral = authentic::admit(parts, platform, root, self.clock())?;
        self.shared.options.floors.check(&collateral, TcbSet::Standard)?;
        Ok(collateral)
    }

    /// The collateral that is held and valid now, by model.
    pub fn held(&self) -> Vec<Arc<Collateral>> {
        let entries = self.entries();
        let now = self.clock().now();
        let models = entries.held();
        models.into_iter().filter_map(|(model, _)| entries.look(model, now)).collect()
    }

    /// Whether `collateral` is in use, and the last write of the store did not fail.
    pub fn holds(&self, collateral: &Collateral) -> bool {
        let held = self.entries().look(collateral.model(), self.clock().now());
        held.is_some_and(|held| *held == *collateral) && self.shared.stored().write_failure.is_none()
    }

    /// Uses the sets of a file that are still valid, as after a restart. Gives how many.
    pub async fn import_valid(&self, bundle: CollateralBundle) -> usize {
        let cache = self.clone();
        let examine = move || bundle.0.into_iter().filter_map(|parts| cache.examined(parts).ok()).collect();
        let valid = tokio::task::spawn_blocking(examine).await.unwrap_or_default();
        self.import(valid).await.unwrap_or(0)
    }

    /// Uses examined collateral from now on, each set unless a later issue of it is held. Evidence verified before is
    /// verified again. Gives how many sets are in use now.
    ///
    /// # Errors
    /// [`BundleError::Refused`], if a service has sent later collateral since it was examined; the sets before it are used.
    pub async fn import(&self, examined: Vec<Collateral>) -> Result<usize, BundleError> {
        let mut used = 0;
        for (index, collateral) in examined.into_iter().enumerate() {
            let refused = |failure| BundleError::Refused { number: index + 1, failure };
            self.raise_floors(&collateral, TcbSet::Standard).await.map_err(refused)?;
            let platform = collateral.model();
            let issued = collateral.issued();
            let placed: Option<Arc<Collateral>> = self.keep(platform, Ok(collateral)).ok();
            used += usize::from(placed.is_some_and(|placed| placed.issued() == issued));
        }
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        Ok(used)
    }
}
