//! A cache of signed env public keys: an app's key never changes, and its signature with a timestamp is valid
//! for one second.

use std::sync::Arc;

use kms_attest::identity::AppId;
use quick_cache::sync::Cache;

use super::prepared::Prepared;
use crate::admission::SelfAuthorization;
use crate::error::{Error, Result};
use crate::lifecycle::{EnvPublicKey, Ready};
use crate::proto::PublicKeyResponse;

/// How many apps are cached, least used first out. About 600 bytes each.
const APPS: usize = 4096;

/// The responses of `GetAppEnvEncryptPubKey`.
#[derive(Debug)]
pub(super) struct EnvKeys(Cache<[u8; 20], Entry>);

#[derive(Debug, Clone)]
struct Entry {
    key: Arc<EnvPublicKey>,
    answer: Arc<Prepared<PublicKeyResponse>>,
}

impl Default for EnvKeys {
    fn default() -> Self {
        Self(Cache::new(APPS))
    }
}

impl EnvKeys {
    /// The response for `app_id` at `now` (Unix seconds).
    pub(super) fn answer(
        &self,
        ready: &Ready,
        self_authorization: &SelfAuthorization,
        app_id: AppId,
        now: u64,
    ) -> Result<Arc<Prepared<PublicKeyResponse>>> {
        let known = self.0.get(&app_id.0);
        if let Some(entry) = known.as_ref().filter(|entry| entry.answer.message().timestamp == now) {
            return Ok(Arc::clone(&entry.answer));
        }
        let key = match known {
            Some(entry) => entry.key,
            None => Arc::new(
                ready
                    .env_public_key(self_authorization, &app_id)
                    .map_err(|error| Error::internal("the key of this app cannot be derived", error))?,
            ),
        };
        let answer = Arc::new(Prepared::new(PublicKeyResponse {
            public_key: key.public_key.to_vec(),
            signature: key.signature.to_vec(),
            timestamp: now,
            signature_v1: ready.sign_env_public_key_at(self_authorization, &app_id, &key, now).to_vec(),
        }));
        self.0.insert(app_id.0, Entry { key, answer: Arc::clone(&answer) });
        Ok(answer)
    }
}
