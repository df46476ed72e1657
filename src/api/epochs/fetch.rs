//! Epochs from another KMS of the cluster: over the same attested handover as in onboarding.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::change::{failed, fingerprint, left_out, unrecorded};
use super::shown::Epochs;
use super::{EpochService, refused, source};
use crate::admission::Foundation;
use crate::api::Caller;
use crate::api::onboard::{domains_differ, root_keys, source_credential};
use crate::audit::Event;
use crate::clock::{unix, unix_now};
use crate::control::{AppEpochError, Author, EpochAction, FollowedEpoch, FollowedState, Preference};
use crate::error::{Code, Error, Result};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{
    EpochChange, EpochError, EpochInfo, EpochKeys, EpochParts, EpochState, EpochTimes, ReceivedEpochs,
};
use crate::lifecycle::epoch_parts;
use crate::request;
use crate::state::Choices;

/// What a version says that knows no choices.
static NO_CHOICES: Choices = Choices { app_epochs: BTreeMap::new(), domains: None, domains_sha256: None };

/// The body of `POST /api/v1/epochs/fetch`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchBody {
    /// The address of a KMS with the same root keys: of its main listener, or with `source_token` of its admin listener.
    source_url: String,
    /// The token of an operator there.
    #[serde(default)]
    source_token: Option<String>,
    /// The ids of replicas of this KMS that lack an epoch which comes into force, and are left out, as in an activation.
    #[serde(default)]
    except: Vec<String>,
    /// Which choice is in force for an app for which operators chose different epochs here and at the source: the one made here, unless
    /// this says otherwise. A choice that was made here only always stays.
    #[serde(default)]
    app_epochs: Preferred,
}

/// Whose choices of epochs for apps are put in force.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preferred {
    /// Those that were made here.
    #[default]
    Own,
    /// Those of the source.
    Received,
}

/// Without the token.
impl std::fmt::Debug for FetchBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchBody").field("source_url", &self.source_url).finish_non_exhaustive()
    }
}

impl EpochService {
    /// Receives the epochs that another KMS of this cluster has, as prepared ones, and follows its states, which is a change
    /// like any other. States only move forward; keys of destroyed epochs are destroyed here only by an owner of this KMS.
    ///
    /// # Errors
    /// Those of `Onboard`; `epoch_refused`: the source has other keys or none of ours, or an earlier state; `other_domain`; a
    /// disk or an audit log that does not take it. For the states those of [`EpochService::activate`]; the epochs are
    /// received by then. The choices of epochs for apps are received too, as `Preferred` says; what differs is in
    /// [`EpochService::apps`].
    pub async fn fetch(self: &Arc<Self>, caller: &Caller, body: FetchBody) -> Result<Epochs> {
        let FetchBody { source_url, source_token, except, app_epochs } = body;
        let preference = match app_epochs {
            Preferred::Own => Preference::Own,
            Preferred::Received => Preference::Received,
        };
        let (url, except) = (source(&source_url)?, left_out(except)?);
        let token = source_credential(&Zeroizing::new(source_token.unwrap_or_default()))?;
        caller.expect_whole_kms()?;
        let (service, author, address) = (Arc::clone(self), caller.author(), url.to_string());
        // A task of its own, so that a caller that disconnects does not leave it half done, nor lets another change begin.
        let receive = request::spawn(async move {
            let Ok(_turn) = service.turn.try_lock() else {
                return Err(Error::new(Code::NotReady, "the epochs are being changed now; try again"));
            };
            let parts = root_keys(&service.foundation, service.terms, &url, token.as_ref()).await?;
            // Before anything changes: of a newer version, what it does not know here may change keys.
            let choices =
                parts.choices.as_ref().map(|choices| Choices::parse(choices.as_bytes())).transpose();
            let choices = choices.map_err(|error| {
                let text = format!("the source is not usable here: {error}; nothing was changed");
                Error::new(Code::Conflict, text).because("choices_unknown")
            })?;
            // A source that says nothing of choices has no domains.
            let of_domains = choices.as_ref().unwrap_or(&NO_CHOICES);
            service.foundation.domains.expect(of_domains).map_err(domains_differ)?;
            // Those of other keys are refused: the keys of epoch 0 are those of the cluster.
            let parts = epoch_parts(parts).map_err(refused)?;
            let now = SystemTime::now();
            let (said, new) = sorted(&service.ready.epochs(), parts, unix(now))?;
            // An app at an epoch that nobody has would get no keys.
            if let Some(beyond) = choices.as_ref().and_then(|choices| choices.beyond(said.len())) {
                let text = format!(
                    "the source chose epoch {beyond} for an app, and has no such epoch; nothing was changed"
                );
                return Err(Error::new(Code::Conflict, text).because("choices_unknown"));
            }
            let received = service.ready.received_epochs(new).map_err(refused)?;
            let changed =
                service.ready.foresee_epochs(EpochChange::Adopt(&received), now).map_err(refused)?;
            service.adopt(received, changed, url.to_string(), author.clone(), now).await?;
            if let Some(choices) = choices {
                service.adopt_choices(&choices, url.to_string(), preference, &author).await?;
            }
            Ok(said)
        });
        let said = receive.await.map_err(|error| Error::internal("the change ended in a panic", error))??;
        self.count();
        let epochs = ahead(&self.ready.epochs(), &said);
        match epochs.is_empty() {
            true => self.list().await,
            false => self.pass(caller, EpochAction::Follow { source: address, epochs, except }).await,
        }
    }

    async fn adopt_choices(
        &self,
        choices: &Choices,
        source: String,
        preference: Preference,
        author: &Author,
    ) -> Result<()> {
        let Foundation { app_epochs, audit, .. } = &*self.foundation;
        let kept = |error: AppEpochError| {
            Error::unavailable("the epochs were received, but not those chosen for apps; fetch again", error)
                .because("choices_not_kept")
        };
        let adoption = app_epochs.adoption(choices, source, preference).await.map_err(kept)?;
        let adopted = adoption.adopt(author, audit, app_epochs).await.map_err(kept)?;
        let event = Event::AppEpochsReceived {
            source: adopted.source.clone(),
            apps: choices.app_epochs.len(),
            changed: adopted.changed,
            kept: adopted.kept.len(),
            by: author.by.clone(),
            remote: author.remote,
        };
        audit.record(event).await.map(drop).map_err(unrecorded)?;
        self.received.store(Some(Arc::new((adopted, unix_now()))));
        Ok(())
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

/// What the source says of an epoch.
struct Said {
    epoch: RootEpoch,
    times: EpochTimes,
}

/// What a source says of all epochs, and those of them that are new here, not in force yet whatever it says.
///
/// The source must have the private keys of an epoch that are here too: public keys are known to everybody, so a source that
/// says that all which it shares with this KMS are destroyed could have any keys for those that are new.
fn sorted(known: &[EpochInfo], parts: Vec<EpochParts>, now: u64) -> Result<(Vec<Said>, Vec<EpochParts>)> {
    let said: Vec<Said> = parts.iter().map(|part| Said { epoch: part.epoch, times: part.times }).collect();
    let (mut is_proved, mut new) = (false, Vec::new());
    for mut part in parts {
        let is_held = matches!(part.keys, EpochKeys::Held { .. });
        if is_held == part.times.destroyed_at.is_some()
            || part.times.retired_at.is_none() && part.times.destroyed_at.is_some()
        {
            return Err(refused(EpochError::Contradiction(part.epoch)));
        }
        let Some(ours) = known.iter().find(|info| info.epoch == part.epoch) else {
            if is_held {
                part.times = EpochTimes { prepared_at: part.times.prepared_at, ..EpochTimes::default() };
            }
            new.push(part);
            continue;
        };
        let is_same = match &part.keys {
            EpochKeys::Held { ca, k256 } => {
                ca.spki_der() == ours.ca_spki && *k256.public_key() == ours.k256_public
            }
            EpochKeys::Destroyed(public) => public.ca_spki == ours.ca_spki && public.k256 == ours.k256_public,
        };
        if !is_same {
            return Err(refused(EpochError::OtherKeys(part.epoch)));
        }
        is_proved |= is_held && ours.state != EpochState::Destroyed;
        // As with an old copy of a KMS.
        if ours.state == EpochState::Active
            && part.times.retired_at.is_none()
            && part.times.activate_at.is_some_and(|at| at > now)
        {
            let text = format!(
                "the source says that epoch {} is prepared, which is earlier than here; nothing was changed",
                part.epoch
            );
            return Err(Error::new(Code::Conflict, text).because("epoch_refused"));
        }
    }
    match is_proved {
        true => Ok((said, new)),
        false => {
            let text = "the source has the keys of no epoch whose keys are here, so it does not prove that it is of this \
                        cluster; fetch from another KMS; nothing was changed";
            Err(Error::new(Code::Conflict, text).because("epoch_refused"))
        }
    }
}

/// The states in which the source is ahead, short of destruction. What is retired here stays so.
fn ahead(known: &[EpochInfo], said: &[Said]) -> Vec<FollowedEpoch> {
    let followed = known.iter().filter_map(|ours| {
        let theirs = said.iter().find(|said| said.epoch == ours.epoch)?.times;
        let is_open = ours.state < EpochState::Retired;
        let to = match (theirs.retired_at, theirs.activate_at) {
            (Some(_), _) if is_open => FollowedState::Retired,
            (None, Some(at)) if ours.state == EpochState::Prepared && ours.times.activate_at != Some(at) => {
                FollowedState::ActiveFrom(at)
            }
            _ => return None,
        };
        Some(FollowedEpoch { epoch: ours.epoch.0, fingerprint: fingerprint(ours), to })
    });
    followed.collect()
}

#[cfg(test)]
mod tests {
    use kms_attest::p256::P256Key;

    use super::*;
    use crate::keys::K256Key;
    use crate::keys::keyring::{Keyring, PublicRoot};

    fn held(epoch: u32, keys: &(P256Key, K256Key), times: EpochTimes) -> EpochParts {
        let ca = P256Key::from_scalar(keys.0.scalar()).unwrap();
        let k256 = K256Key::from_scalar(keys.1.scalar()).unwrap();
        EpochParts { epoch: RootEpoch(epoch), times, keys: EpochKeys::Held { ca, k256 }, root_ca_pem: None }
    }

    #[test]
    fn a_source_proves_a_private_key_and_its_new_epochs_are_not_in_force_by_themselves() {
        let generate = || (P256Key::generate(), K256Key::generate());
        let (first, second) = (generate(), generate());
        let times = |at: Option<u64>, retired_at| EpochTimes {
            prepared_at: Some(5),
            activate_at: at,
            retired_at,
            destroyed_at: None,
        };
        let ring = |parts| Keyring::from_parts(P256Key::generate(), parts).unwrap();
        let known = ring(vec![held(0, &first, EpochTimes::FIRST)]).infos(100);
        // As it is: epoch 0 is retired there, and epoch 1 in force.
        let theirs =
            || vec![held(0, &first, times(Some(0), Some(60))), held(1, &second, times(Some(50), None))];
        let (said, new) = sorted(&known, theirs(), 100).unwrap();
        assert_eq!((said.len(), new.len()), (2, 1));
        assert_eq!(new[0].times, times(None, None), "its time is not taken");
        let received = ring(vec![held(0, &first, EpochTimes::FIRST), held(1, &second, times(None, None))]);
        let followed: Vec<_> =
            ahead(&received.infos(100), &said).iter().map(|to| (to.epoch, to.to)).collect();
        assert_eq!(followed, [(0, FollowedState::Retired), (1, FollowedState::ActiveFrom(50))]);
        assert!(ahead(&ring(theirs()).infos(100), &said).is_empty(), "there is nothing to follow");

        // Only public keys of epoch 0, and any keys for epoch 1.
        let public = PublicRoot { ca_spki: first.0.spki_der(), k256: *first.1.public_key() };
        let gone = EpochTimes { destroyed_at: Some(61), ..times(Some(0), Some(60)) };
        let destroyed = |times| {
            let keys = EpochKeys::Destroyed(public);
            EpochParts { epoch: RootEpoch::FIRST, times, keys, root_ca_pem: None }
        };
        for (parts, text) in [
            (vec![destroyed(gone), held(1, &generate(), times(Some(50), None))], "keys of no epoch"),
            (vec![destroyed(gone)], "keys of no epoch"),
            (vec![held(1, &generate(), times(Some(50), None))], "keys of no epoch"),
            (vec![held(0, &first, gone)], "contradicts itself"),
            (vec![destroyed(EpochTimes::FIRST)], "contradicts itself"),
            (vec![held(0, &second, EpochTimes::FIRST)], "other public keys"),
            (vec![held(0, &first, times(Some(101), None))], "earlier than here"),
        ] {
            let error = sorted(&known, parts, 100).map(drop).unwrap_err();
            assert!(error.message().contains(text), "{text}: {}", error.message());
        }
    }
}
