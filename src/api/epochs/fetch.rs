//! Epochs from another KMS of the cluster: over the same attested hand-over as in onboarding.

use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::change::{failed, unrecorded};
use super::shown::Epochs;
use super::{EpochService, refused, source};
use crate::api::Caller;
use crate::api::onboard::{root_keys, source_credential};
use crate::audit::Event;
use crate::control::Author;
use crate::error::{Code, Error, Result};
use crate::keys::keyring::{EpochChange, EpochInfo, ReceivedEpochs};
use crate::lifecycle::epoch_parts;
use crate::request;

/// The body of `POST /api/v1/epochs/fetch`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchBody {
    /// The address of a KMS with the same root keys: of its main listener, or with `source_token` of its admin listener.
    source_url: String,
    /// The token of an operator there.
    #[serde(default)]
    source_token: Option<String>,
}

/// Without the token.
impl std::fmt::Debug for FetchBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchBody").field("source_url", &self.source_url).finish_non_exhaustive()
    }
}

impl EpochService {
    /// Receives the epochs that another KMS of this cluster has, and follows its states. States only move forward; keys of
    /// destroyed epochs are destroyed here only by an owner of this KMS.
    ///
    /// # Errors
    /// Those of `Onboard`; `epoch_refused`: the source has other keys, or an earlier state; `other_domain`; a disk or an audit
    /// log that does not take it.
    pub async fn fetch(self: &Arc<Self>, caller: &Caller, body: FetchBody) -> Result<Epochs> {
        let FetchBody { source_url, source_token } = body;
        let url = source(&source_url)?;
        let token = source_credential(&Zeroizing::new(source_token.unwrap_or_default()))?;
        caller.expect_whole_kms()?;
        let Ok(_turn) = self.turn.try_lock() else {
            return Err(Error::new(Code::NotReady, "the epochs are being changed now; try again"));
        };
        let parts = root_keys(&self.foundation, self.terms, &url, token.as_ref()).await?;
        let known = self.ready.epochs();
        // Those of other keys are refused: the keys of epoch 0 are those of the cluster.
        let received = epoch_parts(parts).map_err(refused)?;
        let received = self.ready.received_epochs(received).map_err(refused)?;
        let now = SystemTime::now();
        let changed = self.ready.foresee_epochs(EpochChange::Adopt(&received), now).map_err(refused)?;
        forward(&known, &changed)?;
        let (service, author) = (Arc::clone(self), caller.author());
        // A task of its own, so that a caller that disconnects does not leave it half done.
        let adopt =
            request::spawn(
                async move { service.adopt(received, changed, url.to_string(), author, now).await },
            );
        adopt.await.map_err(|error| Error::internal("the change ended in a panic", error))??;
        self.count();
        self.list().await
    }

    async fn adopt(
        &self,
        received: ReceivedEpochs,
        changed: Vec<EpochInfo>,
        source: String,
        author: Author,
        now: SystemTime,
    ) -> Result<()> {
        let mut recorded = None;
        for info in &changed {
            let event = Event::EpochReceived {
                epoch: info.epoch.0,
                state: info.state.name(),
                active_from: info.times.activate_at,
                ca_pubkey: hex::encode(info.ca_spki),
                k256_pubkey: hex::encode(info.k256_public),
                source: source.clone(),
                by: author.by.clone(),
                remote: author.remote,
            };
            recorded = Some(self.foundation.audit.record(event).await.map_err(unrecorded)?);
        }
        let Some(recorded) = recorded else { return Ok(()) };
        let (ready, newest) = (Arc::clone(&self.ready), changed.last().map_or(0, |info| info.epoch.0));
        let made = tokio::task::spawn_blocking(move || ready.adopt_epoch(&received, recorded, now)).await;
        let made = match made {
            Ok(made) => made.map(drop).map_err(|error| failed(newest, error)),
            Err(error) => Err(Error::internal("the change ended in a panic", error)),
        };
        if let Err(error) = &made {
            for info in &changed {
                self.foundation.audit.note(Event::EpochChangeFailed {
                    epoch: info.epoch.0,
                    change: "epoch_received",
                    reason: error.message().to_owned(),
                    by: author.by.clone(),
                    remote: author.remote,
                });
            }
        }
        made
    }
}

/// Checks that no epoch that is known here would go back to an earlier state, as with an old copy of a KMS.
fn forward(known: &[EpochInfo], changed: &[EpochInfo]) -> Result<()> {
    let back = changed
        .iter()
        .find(|after| known.iter().any(|before| before.epoch == after.epoch && after.state < before.state));
    match back {
        None => Ok(()),
        Some(info) => {
            let text = format!(
                "the source says that epoch {} is {}, which is earlier than here; nothing was changed",
                info.epoch,
                info.state.name()
            );
            Err(Error::new(Code::Conflict, text).because("epoch_refused"))
        }
    }
}
