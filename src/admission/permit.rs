//! Proof that a caller was verified and allowed: only `admission` makes it, and secrets ask for it.

use std::marker::PhantomData;

use kms_attest::identity::{AppId, BootInfo};

use super::{Relaxations, freeze::NotFrozen};

/// May have the keys of its app.
#[derive(Debug)]
pub enum App {}

/// May have the root keys: a replica.
#[derive(Debug)]
pub enum Kms {}

/// May have a certificate of its app.
#[derive(Debug)]
pub enum Certificate {}

/// The caller whose `identity` was verified and allowed in the role `R`.
#[derive(Debug)]
pub struct Permit<R> {
    identity: BootInfo,
    app_id: AppId,
    gateway_app_id: String,
    relaxations: Relaxations,
    role: PhantomData<fn() -> R>,
}

impl<R> Permit<R> {
    pub(super) fn new(identity: BootInfo, app_id: AppId, gateway_app_id: String, _: NotFrozen) -> Self {
        Self { identity, app_id, gateway_app_id, relaxations: Relaxations::default(), role: PhantomData }
    }

    /// A permit for what is tried with one; its app id is the identity's.
    #[cfg(test)]
    pub(crate) fn for_test(identity: BootInfo, not_frozen: NotFrozen) -> Self {
        let app_id = AppId::try_from(identity.app_id.as_slice()).expect("an app id");
        Self::new(identity, app_id, String::new(), not_frozen)
    }

    /// The same, which took these relaxations.
    pub(super) fn relaxed(self, relaxations: Relaxations) -> Self {
        Self { relaxations, ..self }
    }

    /// What was needed of the operator's tolerance: policy was told something else than [`Permit::identity`].
    pub fn relaxations(&self) -> &[String] {
        self.relaxations.labels()
    }

    /// What was verified.
    pub fn identity(&self) -> &BootInfo {
        &self.identity
    }

    /// The app whose keys are meant: 20 bytes out of the measured `app-id` event.
    pub fn app_id(&self) -> &AppId {
        &self.app_id
    }

    /// The gateway that policy names for this caller.
    pub fn gateway_app_id(&self) -> &str {
        &self.gateway_app_id
    }
}

/// Proof that this KMS itself may serve: its own evidence was verified and allowed, or the operator has switched
/// self-authorization off (`core.enforce_self_authorization = false`).
#[derive(Debug, Clone)]
pub struct Standing(());

impl Standing {
    pub(super) fn granted() -> Self {
        Self(())
    }
}
