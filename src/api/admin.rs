//! The admin service: for callers that its listener has authenticated.

mod clock;
mod collateral;
mod denials;
mod explain;
mod freeze;
mod shadow;

use std::sync::Arc;
use std::time::Duration;

use kms_attest::identity::BootInfo;

use super::images::{clear, note_cleared};
use super::kms::KmsService;
use super::{Caller, Method};
use crate::admission::{Explainer, Foundation};
use crate::audit::Event;
use crate::config::{Core, EmptyDevices};
use crate::error::Result;
use crate::proto::{ClearImageCacheRequest, GetKmsKeyRequest, KmsKeyResponse, VerifiedIdentity};

/// How long an answer waits for its line in the audit log, where it does not depend on it.
const NOTE_TIME: Duration = Duration::from_secs(2);

/// `service Admin` of the proto file.
#[derive(Debug)]
pub struct AdminService {
    foundation: Arc<Foundation>,
    /// Hands root keys over; nothing else here can make a permit.
    kms: Arc<KmsService>,
    explainer: Explainer,
    /// What an empty device list means in a candidate that does not say.
    empty_devices: EmptyDevices,
}

impl AdminService {
    /// The service over `[core]`, beside that of the main listener.
    pub fn new(core: &Core, kms: Arc<KmsService>) -> Self {
        Self {
            foundation: Arc::clone(&kms.foundation),
            explainer: kms.explainer(),
            kms,
            empty_devices: core.auth_api.empty_devices(),
        }
    }

    /// `Admin.ClearImageCache`.
    ///
    /// # Errors
    /// A hash that is not one, or a cache that cannot be cleared.
    pub async fn clear_image_cache(&self, caller: &Caller, request: ClearImageCacheRequest) -> Result<()> {
        let ClearImageCacheRequest { image_hash, config_hash } = request;
        clear(&self.kms.images, &image_hash, &config_hash).await?;
        note_cleared(&self.foundation.audit, caller.author(), &image_hash, &config_hash);
        Ok(())
    }

    /// `Admin.GetKmsKey`: the root keys, for an allowed replica whose operator has credentials here. All that
    /// `KMS.GetKmsKey` asks for is asked for here too.
    ///
    /// # Errors
    /// As [`KmsService::get_kms_key`].
    pub async fn get_kms_key(&self, caller: &Caller, request: GetKmsKeyRequest) -> Result<KmsKeyResponse> {
        self.kms.hand_over(Method::AdminGetKmsKey, caller, request).await
    }

    /// Records what an operator did; what was done stands though the log does not take it.
    async fn recorded(&self, event: Event) {
        match tokio::time::timeout(NOTE_TIME, self.foundation.audit.record(event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "what an operator did is missing from the audit file"),
            Err(_) => tracing::error!("the audit file is slow to take what an operator did"),
        }
    }
}

/// An identity as operators are shown it.
fn shown(identity: &BootInfo) -> VerifiedIdentity {
    VerifiedIdentity {
        app_id: identity.app_id.clone(),
        compose_hash: identity.compose_hash.clone(),
        instance_id: identity.instance_id.clone(),
        device_id: identity.device_id.clone(),
        os_image_hash: identity.os_image_hash.clone(),
        mr_aggregated: identity.mr_aggregated.clone(),
        mr_system: identity.mr_system.clone(),
        key_provider_info: String::from_utf8_lossy(&identity.key_provider_info).into_owned(),
        tee_variant: identity.tee_variant.clone(),
        tcb_status: identity.tcb_status.clone(),
        advisory_ids: identity.advisory_ids.clone(),
    }
}
