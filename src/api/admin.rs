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

use super::approval_gate::ApprovalGate;
use super::images::{clear, note_cleared};
use super::kms::{self, KmsService};
use super::{Caller, Method};
use crate::admission::{Explainer, Foundation};
use crate::audit::{Event, Receipt};
use crate::config::{Core, EmptyDevices};
use crate::error::Result;
use crate::proto::{
    ClearImageCacheRequest, GetChallengeResponse, GetKmsKeyRequest, KmsKeyResponse, VerifiedIdentity,
};

/// How long a response waits for its line in the audit log, where it does not depend on it.
const NOTE_TIME: Duration = Duration::from_secs(2);

/// `service Admin` of the proto file.
#[derive(Debug)]
pub struct AdminService {
    foundation: Arc<Foundation>,
    /// Hands over root keys; nothing else here can make a permit.
    kms: Arc<KmsService>,
    explainer: Explainer,
    gate: ApprovalGate,
    /// What an empty device list means in a candidate allowlist without the setting.
    empty_devices: EmptyDevices,
}

impl AdminService {
    /// The service over `[core]`; `kms` is the service of the main listener.
    pub fn new(core: &Core, kms: Arc<KmsService>, gate: ApprovalGate) -> Self {
        Self {
            foundation: Arc::clone(&kms.foundation),
            explainer: kms.explainer(),
            kms,
            gate,
            empty_devices: core.auth_api.empty_devices(),
        }
    }

    /// What the services share.
    pub(super) fn foundation(&self) -> &Foundation {
        &self.foundation
    }

    /// What changes of owners pass.
    pub(super) fn gate(&self) -> &ApprovalGate {
        &self.gate
    }

    /// `Admin.ClearImageCache`.
    ///
    /// # Errors
    /// An invalid hash; a cache that cannot be cleared.
    pub async fn clear_image_cache(&self, caller: &Caller, request: ClearImageCacheRequest) -> Result<()> {
        let ClearImageCacheRequest { image_hash, config_hash } = request;
        clear(&self.kms.foundation.images, &image_hash, &config_hash).await?;
        note_cleared(&self.foundation.audit, caller.author(), &image_hash, &config_hash);
        Ok(())
    }

    /// `Admin.GetKmsKey`: the root keys, for an allowed replica whose operator has credentials here. The
    /// requirements of `KMS.GetKmsKey` apply as well.
    ///
    /// # Errors
    /// Those of [`KmsService::get_kms_key`].
    pub async fn get_kms_key(&self, caller: &Caller, request: GetKmsKeyRequest) -> Result<KmsKeyResponse> {
        self.kms.hand_over(Method::AdminGetKmsKey, caller, request).await
    }

    /// `Admin.GetChallenge`: a challenge of this connection, for `GetKmsKey`.
    ///
    /// # Errors
    /// No random bytes.
    pub async fn get_challenge(&self, caller: &Caller, (): ()) -> Result<GetChallengeResponse> {
        kms::challenge(caller)
    }

    /// Records an operator's action. If the record fails, the action still stands, and there is no receipt.
    pub(super) async fn recorded(&self, event: Event) -> Option<Receipt> {
        match tokio::time::timeout(NOTE_TIME, self.foundation.audit.record(event)).await {
            Ok(Ok(receipt)) => Some(receipt),
            Ok(Err(error)) => {
                tracing::error!(%error, "an operator's action could not be written to the audit log");
                None
            }
            Err(_) => {
                tracing::error!("the audit log is slow to record an operator's action");
                None
            }
        }
    }
}

/// An identity in the form that operators see.
fn shown(identity: BootInfo) -> VerifiedIdentity {
    VerifiedIdentity {
        app_id: identity.app_id,
        compose_hash: identity.compose_hash,
        instance_id: identity.instance_id,
        device_id: identity.device_id,
        os_image_hash: identity.os_image_hash,
        mr_aggregated: identity.mr_aggregated,
        mr_system: identity.mr_system,
        key_provider_info: String::from_utf8_lossy(&identity.key_provider_info).into_owned(),
        tee_variant: identity.tee_variant,
        tcb_status: identity.tcb_status,
        advisory_ids: identity.advisory_ids,
    }
}
