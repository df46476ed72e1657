//! The same walk as for a live request, to its last step, and with no permit at its end.

use std::sync::Arc;

use kms_attest::verify::Verified;
use kms_policy::Role;

use super::walk::{Observer, Walk};
use super::{Asked, Freshness};

/// Explains how a caller would be judged. It has no way to a permit.
#[derive(Debug, Clone)]
pub struct Explainer(Arc<Walk>);

impl Explainer {
    pub(super) fn new(walk: &Arc<Walk>) -> Self {
        Self(Arc::clone(walk))
    }

    /// Tells `observer` of every step.
    pub async fn explain(
        &self,
        verified: &Verified,
        role: Role,
        asked: Asked<'_>,
        freshness: Freshness,
        observer: &mut impl Observer,
    ) {
        // Whatever it found is dropped here: the observer has seen it.
        drop(self.0.run(verified, role, asked, &freshness, observer).await);
    }
}
