//! The setup checks of a KMS that does not run, with its configuration.

use std::sync::Arc;

use kms_attest::attester::Attester;
use kms_policy::Policy;

use crate::admission::{ImageCheck, TcbTolerance};
use crate::api::METHODS;
use crate::api::setup::{Finding, Machine, Services};
use crate::config::{Config, Core};
use crate::metrics::Metrics;
use crate::os_image::ImageCache;

/// Makes the calls that a start would make: evidence of this machine, collateral, policy; and asks whether witnesses and
/// targets of notifications can be reached. Writes nothing but the OS image of this machine, into its cache, if the policy
/// depends on it.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = examine_machine(&config.core).await;
    found.extend(Services::of(&config.core).examine().await);
    found
}

/// Finds nothing if the parts cannot be built, which [`super::Preflight`] finds, or if there is no TEE.
async fn examine_machine(core: &Core) -> Vec<Finding> {
    let (Ok(attester), Ok(verifier), Ok(policy)) =
        (core.attester.build(), core.verifier_of_a_check(), Policy::from_config(&core.auth_api))
    else {
        return Vec::new();
    };
    if matches!(attester, Attester::None) {
        return Vec::new();
    }
    let metrics = Arc::new(Metrics::new(METHODS.iter().map(|row| (row.name, row.access.into()))));
    let tolerance = TcbTolerance::new(core.tcb.clone(), verifier.cache().clock().clone(), metrics);
    let images = ImageCache::new(core.image.cache_dir.clone());
    let Ok(image) = ImageCheck::from_config(&core.image, &images, Default::default()) else {
        return Vec::new();
    };
    let machine = Machine {
        attester: &attester,
        verifier: &verifier,
        tolerance: &tolerance,
        policy: &policy,
        image: &image,
    };
    machine.examine().await
}
