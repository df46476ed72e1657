//! New keys are saved only after their event is in the audit log.

use std::time::SystemTime;

use cvm_kms::domain::Domain;
use cvm_kms::lifecycle::Onboarding;

fn commit(onboarding: &Onboarding, domain: &Domain) {
    let prepared = onboarding.bootstrap();
    let _ = onboarding.commit(&prepared, domain, SystemTime::now());
}

fn main() {}
