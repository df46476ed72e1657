//! Proof that a caller was verified and allowed: only `admission` makes it, and secrets ask for it.

use std::marker::PhantomData;

use kms_attest::{
    identity::{AppId, AppInfo, BootInfo},
    measurement::Stage,
};

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

/// What names the evidence of a caller in a record, and how far the guest had come when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of the evidence.
    pub digest: [u8; 32],
    /// Before or after `system-ready`.
    pub stage: Stage,
}

/// What a caller was admitted as.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) identity: BootInfo,
    pub(super) app_id: AppId,
    /// With run-time registers, whichever the identity is read from.
    pub(super) app_info: AppInfo,
    pub(super) gateway_app_id: String,
    pub(super) relaxations: Relaxations,
    pub(super) shown: Shown,
}

/// The caller whose `identity` was verified and allowed in the role `R`.
#[derive(Debug)]
pub struct Permit<R> {
    admitted: Admitted,
    role: PhantomData<fn() -> R>,
}

impl<R> Permit<R> {
    pub(super) fn new(admitted: Admitted, _: NotFrozen) -> Self {
        Self { admitted, role: PhantomData }
    }

    /// A permit for what is tried with one; its app id is the identity's.
    #[cfg(test)]
    pub(crate) fn for_test(identity: BootInfo, not_frozen: NotFrozen) -> Self {
        let app_info = AppInfo {
            app_id: identity.app_id.clone(),
            compose_hash: identity.compose_hash.clone(),
            instance_id: identity.instance_id.clone(),
            device_id: identity.device_id.clone(),
            mr_system: [0; 32],
            mr_aggregated: [0; 32],
            os_image_hash: identity.os_image_hash.clone(),
            key_provider_info: Vec::new(),
            init_script_hashes: None,
        };
        let admitted = Admitted {
            app_id: AppId::try_from(identity.app_id.as_slice()).expect("an app id"),
            identity,
            app_info,
            gateway_app_id: String::new(),
            relaxations: Relaxations::default(),
            shown: Shown { digest: [0; 32], stage: Stage::Boot },
        };
        Self::new(admitted, not_frozen)
    }

    /// What was needed of the operator's tolerance: policy was told something else than [`Permit::identity`].
    pub fn relaxations(&self) -> &[String] {
        self.admitted.relaxations.labels()
    }

    /// What was verified.
    pub fn identity(&self) -> &BootInfo {
        &self.admitted.identity
    }

    /// The same as a certificate states it: the configuration that was authorized, the device that was verified.
    pub fn app_info(&self) -> &AppInfo {
        &self.admitted.app_info
    }

    /// The evidence that this permit rests on.
    pub fn shown(&self) -> Shown {
        self.admitted.shown
    }

    /// The app whose keys are meant: 20 bytes out of the measured `app-id` event.
    pub fn app_id(&self) -> &AppId {
        &self.admitted.app_id
    }

    /// The gateway that policy names for this caller.
    pub fn gateway_app_id(&self) -> &str {
        &self.admitted.gateway_app_id
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
