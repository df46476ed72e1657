//! Collateral that an operator brings in a file, for machines that reach no service.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;

use super::CollateralCache;
use super::completion::complete;
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
    /// The check of the file ended early.
    #[error("could not be examined")]
    Unexamined,
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

/// What became of the sets of a file.
#[derive(Debug, Default)]
pub struct Import {
    /// How many are in use now.
    pub used: usize,
    /// Those that were not taken, because they are older than what was seen before.
    pub refused: Vec<BundleError>,
}

impl CollateralCache {
    /// Checks all collateral of a file as if a service had sent it: signatures, dates, subject, and that nothing is older
    /// than seen before. A set whose QE identity, CRLs or TCB info are older than those of another model, in the file or in use,
    /// gets the later ones. Changes nothing but the clock's floor.
    ///
    /// # Errors
    /// [`BundleError::Refused`].
    pub fn examine(&self, bundle: CollateralBundle) -> Result<Vec<Collateral>, BundleError> {
        let sets = numbered(bundle.0.into_iter().map(|parts| self.signed(parts)).collect())?;
        let held = self.held();
        let examined = sets.iter().map(|set| {
            // Of its own model, what is in use would turn an older set into that one.
            let others = held.iter().map(Arc::as_ref).filter(|held| held.model() != set.model());
            self.examined(set, sets.iter().chain(others))
        });
        numbered(examined.collect())
    }

    fn signed(&self, parts: QuoteCollateralV3) -> Result<Collateral, FetchFailure> {
        let ca = Collateral::new(parts.clone()).map_err(|_| unparsed())?.model().ca;
        authentic::authenticate(parts, ca, self.shared.anchors.tdx_root(), self.clock())
    }

    fn examined<'a>(
        &self,
        set: &Collateral,
        others: impl Iterator<Item = &'a Collateral>,
    ) -> Result<Collateral, FetchFailure> {
        let completed = complete(set, others, self.clock().now());
        let set = self.admitted(set, completed)?;
        self.shared.options.floors.check(&set, TcbSet::Standard)?;
        Ok(set)
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

    /// Uses the sets of a file that are still valid, as after a restart. Those that have expired are left out; each other one that
    /// is not used is among the refused.
    pub async fn import_valid(&self, bundle: CollateralBundle) -> Import {
        let cache = self.clone();
        let examine = move || {
            let now = cache.clock().now();
            let sets: Vec<_> = bundle.0.into_iter().map(|parts| cache.signed(parts)).collect();
            let held = cache.held();
            let others = || sets.iter().flatten().chain(held.iter().map(Arc::as_ref));
            let (mut valid, mut refused) = (Vec::new(), Vec::new());
            for (index, set) in sets.iter().enumerate() {
                match set.as_ref().map_err(Clone::clone).and_then(|set| cache.examined(set, others())) {
                    Ok(set) => valid.push((index + 1, set)),
                    Err(FetchFailure::NotCurrent) if set.as_ref().is_ok_and(|set| set.expires() < now) => {}
                    Err(failure) => refused.push(BundleError::Refused { number: index + 1, failure }),
                }
            }
            (valid, refused)
        };
        let examined = tokio::task::spawn_blocking(examine).await;
        let (valid, refused) = examined.unwrap_or_else(|_| (Vec::new(), vec![BundleError::Unexamined]));
        let mut import = self.import_numbered(valid).await;
        import.refused.extend(refused);
        import
    }

    /// Uses examined collateral from now on, each set unless a later issue of it is held. Evidence verified before is
    /// verified again. A set is refused if a service has sent later collateral since it was examined; the others are used.
    pub async fn import(&self, examined: Vec<Collateral>) -> Import {
        self.import_numbered(examined.into_iter().enumerate().map(|(index, set)| (index + 1, set)).collect())
            .await
    }

    async fn import_numbered(&self, examined: Vec<(usize, Collateral)>) -> Import {
        let mut import = Import::default();
        for (number, collateral) in examined {
            let collateral = self.brought_up(collateral);
            if let Err(failure) = self.raise_floors(&collateral, TcbSet::Standard).await {
                import.refused.push(BundleError::Refused { number, failure });
                continue;
            }
            let platform = collateral.model();
            let issued = collateral.issued();
            let placed: Option<Arc<Collateral>> = self.keep(platform, Ok(collateral)).ok();
            import.used += usize::from(placed.is_some_and(|placed| placed.issued() == issued));
        }
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        import
    }

    /// `collateral` with later documents that came with other models since it was examined.
    fn brought_up(&self, collateral: Collateral) -> Collateral {
        let held = self.held();
        let others = held.iter().map(Arc::as_ref).filter(|held| held.model() != collateral.model());
        let completed = complete(&collateral, others, self.clock().now());
        self.admitted(&collateral, completed).unwrap_or(collateral)
    }

    /// Whether the disk has all collateral that it should keep.
    pub fn is_all_kept(&self) -> bool {
        self.shared.options.store.is_some() && self.unwritten().is_empty()
    }
}

/// The sets, or the first one that is refused.
fn numbered(sets: Vec<Result<Collateral, FetchFailure>>) -> Result<Vec<Collateral>, BundleError> {
    let sets = sets.into_iter().enumerate();
    sets.map(|(index, set)| set.map_err(|failure| BundleError::Refused { number: index + 1, failure }))
        .collect()
}
