//! Releases in the audit log, before they are sent.

use std::num::NonZeroU32;

use kms_attest::identity::Identity;
use kms_policy::Role;

use super::super::refusal::Attempt;
use super::super::{Caller, Method};
use super::KmsService;
use crate::admission::{Asked, Foundation, Permit, Refusal};
use crate::error::{Code, Error, Result};
use crate::keys::keyring::Unreadable;
use crate::lifecycle::{NotReleased, ReleaseGuards, Released};
use crate::log_limit::LogLimit;

/// Log lines a second about releases to apps.
pub(super) const LINES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

impl KmsService {
    pub(super) fn guards(&self) -> ReleaseGuards<'_> {
        let Foundation { audit, freezes, domains, .. } = &*self.foundation;
        ReleaseGuards { audit, freezes, domains }
    }

    /// The attempt of a caller that identifies itself by its client certificate.
    pub(super) fn attempt<'a>(
        &'a self,
        method: Method,
        role: Role,
        caller: &'a Caller,
        asked: Asked<'a>,
    ) -> Attempt<'a> {
        Attempt {
            foundation: &self.foundation,
            denials: &self.denials,
            method,
            role: Some(role),
            caller,
            vm_config: asked.vm_config,
            epochs: asked.epochs,
            domain: asked.domain,
            fresh: asked.fresh,
            csr: None,
        }
    }

    /// The refusal of a release whose epoch was retired after its record was written.
    pub(super) async fn withheld<R>(
        &self,
        released: Released<R>,
        error: Unreadable,
        attempt: &Attempt<'_>,
    ) -> Error {
        let permit = released.withhold(&self.foundation.audit).await;
        attempt.refuse(permit.without_epoch(error))
    }

    /// Counts the outcome of a record; nothing is sent without one.
    pub(super) fn recorded<R>(
        &self,
        outcome: std::result::Result<Released<R>, (NotReleased, Permit<R>)>,
        attempt: &Attempt<'_>,
    ) -> Result<Released<R>> {
        match outcome {
            Ok(released) => {
                self.foundation.metrics.audit_recorded();
                Ok(released)
            }
            Err((NotReleased::Frozen(frozen), permit)) => {
                let identity = Some(Box::new(permit.identity().clone()));
                Err(attempt.refuse(Refusal::Frozen { frozen, identity }))
            }
            Err((NotReleased::Stale(stale), _)) => Err(attempt.refuse(Refusal::StateStale(stale))),
            Err((NotReleased::Outdated | NotReleased::Moved, _)) => Err(Error::new(
                Code::Unavailable,
                "the release took too long to be decided and recorded, try again",
            )),
            Err((NotReleased::Unrecorded(error), _)) => {
                self.foundation.metrics.audit_failed();
                Err(attempt.unrecorded(error))
            }
        }
    }
}

/// Logs a release, beside its line in the audit log: its receiver, never its content.
pub(super) fn tell<R>(log: &LogLimit, what: &'static str, released: &Released<R>, caller: &Caller) {
    let Some(omitted) = log.admit() else { return };
    let identity = released.permit().identity();
    let Identity { app_id, compose_hash, device_id, mr_aggregated, .. } = identity;
    tracing::info!(
        app_id = hex::encode(app_id),
        instance_id = hex::encode(identity.instance_bytes()),
        compose_hash = hex::encode(compose_hash),
        device_id = hex::encode(device_id),
        mr_aggregated = hex::encode(mr_aggregated),
        remote = %caller.remote(),
        seq = released.seq(),
        omitted,
        "{what}"
    );
}
