//! What `GetMeta` says: always at hand, never asked for on the way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::prepared::Prepared;
use crate::{
    lifecycle::Ready,
    policy::{Info, Policy},
    proto::GetMetaResponse,
};

/// How often the authorization back end is asked about itself.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often the age in the answer moves on.
const AGE_EVERY: Duration = Duration::from_secs(1);

/// The answer of `GetMeta`, kept current in the background.
#[derive(Debug)]
pub struct Meta {
    fixed: GetMetaResponse,
    policy: Arc<Policy>,
    current: ArcSwap<Prepared<GetMetaResponse>>,
}

impl Meta {
    /// The answer for this KMS, with the codes of its relaxed settings.
    pub fn new(ready: &Ready, policy: Arc<Policy>, relaxed_settings: Vec<String>) -> Self {
        let everything_is_allowed = policy.is_dev();
        let fixed = GetMetaResponse {
            ca_cert: ready.root_ca_pem().to_owned(),
            allow_any_upgrade: everything_is_allowed,
            k256_pubkey: ready.k256_public_key().to_vec(),
            bootstrap_info: ready.bootstrap_info().cloned(),
            is_dev: everything_is_allowed,
            version: env!("CVM_KMS_VERSION").to_owned(),
            relaxed_settings,
            ..GetMetaResponse::default()
        };
        Self { current: ArcSwap::from_pointee(Prepared::new(fixed.clone())), fixed, policy }
    }

    /// The current answer.
    pub fn answer(&self) -> Arc<Prepared<GetMetaResponse>> {
        self.current.load_full()
    }

    /// Asks the back end about itself now and then, until dropped. When it does not answer, the last answer stays and
    /// shows its age.
    pub async fn keep_current(&self) {
        let mut known: Option<(Info, Instant)> = None;
        let mut asked: Option<Instant> = None;
        let mut tick = tokio::time::interval(AGE_EVERY);
        loop {
            tick.tick().await;
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
                asked = Some(Instant::now());
                match self.policy.info().await {
                    Ok(info) => known = Some((info, Instant::now())),
                    Err(error) => {
                        tracing::warn!(%error, "the authorization back end does not tell about itself")
                    }
                }
            }
            if let Some((info, at)) = &known {
                self.show(info, at.elapsed());
            }
        }
    }

    fn show(&self, info: &Info, age: Duration) {
        let shown = GetMetaResponse {
            gateway_app_id: info.gateway_app_id.clone(),
            kms_contract_address: info.kms_contract_address.clone(),
            chain_id: info.chain_id,
            app_auth_implementation: info.app_auth_implementation.clone(),
            auth_info_age_seconds: Some(age.as_secs()),
            ..self.fixed.clone()
        };
        if self.current.load().message() != &shown {
            self.current.store(Arc::new(Prepared::new(shown)));
        }
    }
}
