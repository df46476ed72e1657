//! The admin service: for callers that its listener has authenticated.

mod clock;
mod collateral;
mod denials;
mod explain;
mod freeze;
mod shadow;

use std::{sync::Arc, time::Duration};

use kms_attest::{identity::BootInfo, verify::Verifier};

use super::{Caller, Method, kms::KmsService};
use crate::{
    admission::{Author, Freezes, ImageCheck, SelfAuthorizer, TcbTolerance, denials::Denials},
    audit::{Audit, Event},
    config::{EmptyDevices, ReleaseStage},
    error::Result,
    os_image::ImageCache,
    policy::{Policy, Shadow},
    proto::{ClearImageCacheRequest, GetKmsKeyRequest, KmsKeyResponse, VerifiedIdentity},
};

/// How long an answer waits for its line in the audit log, where it does not depend on it.
const NOTE_TIME: Duration = Duration::from_secs(2);

/// The parts that the service is made of. None but `kms`, for `GetKmsKey`, can make a permit.
#[derive(Debug)]
pub struct Parts {
    /// What `ClearImageCache` clears.
    pub images: ImageCache,
    /// Verifies what is explained.
    pub verifier: Arc<Verifier>,
    /// Judges what is explained.
    pub policy: Arc<Policy>,
    /// What it is told of Intel's verdict.
    pub tolerance: Arc<TcbTolerance>,
    /// Whether an OS image is compared.
    pub image: ImageCheck,
    /// At which stages of a guest keys are released.
    pub release_stage: ReleaseStage,
    /// Whether we may serve at all.
    pub self_authorization: Arc<SelfAuthorizer>,
    /// What is frozen.
    pub freezes: Arc<Freezes>,
    /// Who was refused.
    pub denials: Arc<Denials>,
    /// The candidate that looks on.
    pub shadow: Arc<Shadow>,
    /// What an empty device list means in a candidate that does not say.
    pub empty_devices: EmptyDevices,
    /// Where everything is recorded.
    pub audit: Arc<Audit>,
    /// What hands root keys over.
    pub kms: Arc<KmsService>,
}

/// `service Admin` of the proto file.
#[derive(Debug)]
pub struct AdminService {
    parts: Parts,
}

impl AdminService {
    /// The service over its parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// `Admin.ClearImageCache`.
    ///
    /// # Errors
    /// A hash that is not one, or a cache that cannot be cleared.
    pub async fn clear_image_cache(&self, caller: &Caller, request: ClearImageCacheRequest) -> Result<()> {
        let ClearImageCacheRequest { image_hash, config_hash } = request;
        super::kms::clear(&self.parts.images, &image_hash, &config_hash).await?;
        note_cleared(&self.parts.audit, caller.author(), &image_hash, &config_hash);
        Ok(())
    }

    /// `Admin.GetKmsKey`: the root keys, for an allowed replica whose operator has credentials here. All that
    /// `KMS.GetKmsKey` asks for is asked for here too.
    ///
    /// # Errors
    /// As [`KmsService::get_kms_key`].
    pub async fn get_kms_key(&self, caller: &Caller, request: GetKmsKeyRequest) -> Result<KmsKeyResponse> {
        self.parts.kms.hand_over(Method::AdminGetKmsKey, caller, request).await
    }

    /// Records what an operator did; what was done stands though the log does not take it.
    async fn recorded(&self, event: Event) {
        match tokio::time::timeout(NOTE_TIME, self.parts.audit.record(event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "what an operator did is missing from the audit file"),
            Err(_) => tracing::error!("the audit file is slow to take what an operator did"),
        }
    }
}

/// Records that caches were cleared.
pub(super) fn note_cleared(audit: &Audit, author: Author, image_hash: &str, config_hash: &str) {
    if image_hash.is_empty() && config_hash.is_empty() {
        return;
    }
    audit.note(Event::CachesCleared {
        image_hash: image_hash.to_owned(),
        config_hash: config_hash.to_owned(),
        by: author.by,
        remote: author.remote,
    });
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
