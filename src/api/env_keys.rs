//! A cache of signed env public keys: an app's key never changes, and its signature with a timestamp is valid
//! for one second.

use std::sync::Arc;

use kms_attest::identity::{AppId, DomainName};
use quick_cache::sync::Cache;

use super::prepared::Prepared;
use crate::admission::{GrantedEpochs, SelfAuthorization};
use crate::error::{Code, Error, Result};
use crate::keys::derive::DeriveError;
use crate::keys::epoch::KeyEpochs;
use crate::lifecycle::{EnvPublicKey, Ready};
use crate::metrics::CacheState;
use crate::proto::PublicKeyResponse;

/// How many keys are cached, least used first out. About 200 bytes each.
const KEYS: usize = 4096;

/// How many responses are cached. About 800 bytes each, and outdated after a second.
const RESPONSES: usize = 512;

/// All that the key of an app depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct EnvKeyName {
    domain: DomainName,
    app: AppId,
    epochs: KeyEpochs,
}

/// A key, and the epochs that the response says.
type Asked = (EnvKeyName, Option<KeyEpochs>);

/// The responses of `GetAppEnvEncryptPubKey`.
#[derive(Debug)]
pub(super) struct EnvKeys {
    keys: Cache<EnvKeyName, Arc<EnvPublicKey>>,
    responses: Cache<Asked, Arc<Prepared<PublicKeyResponse>>>,
}

impl Default for EnvKeys {
    fn default() -> Self {
        Self { keys: Cache::new(KEYS), responses: Cache::new(RESPONSES) }
    }
}

/// Why there is no key. The epochs were granted before: only their root epoch can have been retired meanwhile, and then the
/// answer is the one that a later request gets.
fn underivable(error: DeriveError) -> Error {
    match error {
        DeriveError::Epoch(unreadable) => Error::new(Code::Denied, unreadable.to_string()),
        DeriveError::TooLong(_)
        | DeriveError::DiskKey(_)
        | DeriveError::EnvKey(_)
        | DeriveError::AppCaKey(_)
        | DeriveError::K256Key(_) => Error::internal("the key of this app cannot be derived", error),
    }
}

impl EnvKeys {
    /// The cache of keys, for diagnostics.
    pub(super) fn state(&self) -> CacheState {
        let keys = &self.keys;
        let (entries, limit) = (keys.len() as u64, Some(keys.capacity()));
        CacheState { entries, limit, hits: keys.hits(), misses: keys.misses() }
    }

    /// The response for `app_id` in `domain` at `now` (Unix seconds).
    pub(super) fn answer(
        &self,
        ready: &Ready,
        self_authorization: &SelfAuthorization,
        (domain, app_id): (&DomainName, AppId),
        granted: &GrantedEpochs,
        now: u64,
    ) -> Result<Arc<Prepared<PublicKeyResponse>>> {
        let (epochs, said) = (granted.used(), granted.said());
        let name = EnvKeyName { domain: domain.clone(), app: app_id, epochs };
        let asked = (name, said);
        if let Some(response) = self.responses.get(&asked)
            && response.message().timestamp == now
        {
            return Ok(response);
        }
        let key = match self.keys.get(&asked.0) {
            Some(key) => key,
            None => {
                let key =
                    ready.env_public_key(self_authorization, domain, &app_id, epochs).map_err(underivable)?;
                let key = Arc::new(key);
                self.keys.insert(asked.0.clone(), Arc::clone(&key));
                key
            }
        };
        let signature_v1 =
            ready.sign_env_public_key_at(self_authorization, &app_id, &key, now).map_err(underivable)?;
        let response = Arc::new(Prepared::new(PublicKeyResponse {
            public_key: key.public_key.to_vec(),
            signature: key.signature.to_vec(),
            timestamp: now,
            signature_v1: signature_v1.to_vec(),
            root_epoch: said.map(|epochs| epochs.root.0),
            app_epoch: said.map(|epochs| epochs.app.0),
            app_domain: domain.said().unwrap_or_default().to_owned(),
        }));
        self.responses.insert(asked, Arc::clone(&response));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::epoch::RootEpoch;
    use crate::keys::keyring::Unreadable;

    #[test]
    fn an_epoch_that_ends_during_a_request_is_a_refusal_and_other_failures_are_ours() {
        let epoch = RootEpoch(1);
        for unreadable in [Unreadable::Retired(epoch), Unreadable::Destroyed(epoch)] {
            let text = unreadable.to_string();
            let error = underivable(unreadable.into());
            assert_eq!((error.code(), error.message()), (Code::Denied, &*text));
        }
        assert_eq!(underivable(DeriveError::TooLong(9000)).code(), Code::Internal);
    }
}
