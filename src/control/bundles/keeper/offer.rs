//! A bundle that came: it is verified, compared with what was seen, and kept.

use std::sync::PoisonError;
use std::time::SystemTime;

use kms_policy::bundle::{Bundle, BundleDigest};
use sha2::{Digest as _, Sha256};

use super::super::OfferError;
use super::super::serials::{Standing, compare};
use super::{BundleKeeper, Offered, Origin, State};
use crate::audit::Event;
use crate::clock::unix_now;
use crate::control::Author;
use crate::state::{SeenBundle, SeenFork};

/// The most bundles in the record of those that were seen.
const MAX_SEEN: usize = 100;

impl BundleKeeper {
    /// Takes a bundle: verified, compared with what was seen, and kept. It waits then, unless it is in force.
    ///
    /// # Errors
    /// [`OfferError`], which is recorded; what the source gives again and again, once.
    pub async fn offer(
        &self,
        bytes: Vec<u8>,
        origin: Origin,
        author: Option<&Author>,
    ) -> Result<(Offered, BundleDigest), OfferError> {
        let sha256 = Sha256::digest(&bytes).into();
        let offered = self.take(bytes, origin, author).await;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match &offered {
            Ok(_) | Err(OfferError::Unsynced(_)) if author.is_none() => *refused = None,
            Ok(_) | Err(OfferError::Unsynced(_)) => {}
            Err(error) => {
                let is_known = author.is_none() && *refused == Some(sha256);
                if author.is_none() {
                    *refused = Some(sha256);
                }
                drop(refused);
                if !is_known {
                    self.record_refusal(error, origin, author);
                }
            }
        }
        offered
    }

    pub(super) fn record_refusal(&self, error: &OfferError, origin: Origin, author: Option<&Author>) {
        self.metrics.policy_bundle_refused(&self.domain, error.code());
        tracing::warn!(domain = self.domain, origin = origin.name(), %error, "policy bundle refused");
        self.audit.note(Event::PolicyBundleRefused {
            domain: self.domain.clone(),
            origin: origin.name(),
            code: error.code(),
            reason: error.to_string(),
            by: author.map(|author| author.by.clone()),
            remote: author.map(|author| author.remote),
        });
    }

    async fn take(
        &self,
        bytes: Vec<u8>,
        origin: Origin,
        author: Option<&Author>,
    ) -> Result<(Offered, BundleDigest), OfferError> {
        let (keys, domain) = (self.bundled().settings().keys.clone(), self.domain.clone());
        // Parsing ten thousand apps blocks for a while.
        let opened = tokio::task::spawn_blocking(move || Bundle::open(&bytes, &keys, &domain)).await;
        let bundle = opened.map_err(|_| OfferError::Panic)??;
        let digest = bundle.digest();
        let mut state = self.state.lock().await;
        let minimum = self.bundled().settings().minimum_serial;
        let standing = match compare(&state.record, minimum, bundle.header(), digest) {
            Ok(standing) => standing,
            Err(error) => {
                if let OfferError::Fork { known, .. } = &error {
                    self.remember_fork(&mut state, &bundle, known, origin).await;
                }
                return Err(error);
            }
        };
        let (serial, fleet) = (bundle.header().serial(), state.record.seen_by_fleet);
        if standing == Standing::New && origin != Origin::Fleet && serial < fleet {
            return Err(OfferError::Rollback { serial, highest: fleet });
        }
        match standing {
            Standing::InForce if self.bundled().is_in_force(digest) => Ok((Offered::InForce, digest)),
            // The pinned keys have changed, and now enough of them have signed it.
            Standing::InForce => {
                self.keep(&bundle).await?;
                self.bundled().put_in_force(bundle, SystemTime::now());
                Ok((Offered::InForce, digest))
            }
            Standing::Pending => {
                if author.is_none() {
                    self.now_of_source(&mut state, digest, origin).await?;
                }
                Ok((Offered::Waits, digest))
            }
            Standing::New => {
                let now = unix_now();
                if bundle.header().expires() <= now {
                    return Err(OfferError::Expired(bundle.header().expires()));
                }
                self.keep(&bundle).await?;
                let mut record = state.record.clone();
                record.pending = Some(digest.to_string());
                record.shadow = None;
                record.seen.retain(|seen| seen.serial != bundle.header().serial());
                record.seen.insert(0, seen(&bundle, origin, now));
                record.seen.truncate(MAX_SEEN);
                let replaced = self.replace(&record).await?;
                self.audit.note(Event::PolicyBundleReceived {
                    bundle: self.facts(&bundle, origin),
                    by: author.map(|author| author.by.clone()),
                    remote: author.map(|author| author.remote),
                });
                *state = State { record, pending: Some(bundle), unattended: None };
                self.bundled().end_shadow();
                self.bundled().set_held(false);
                // The one that waited before: many that are never put in force must not fill the disk.
                replaced.safely().map_err(OfferError::Unsynced)?;
                self.forget_others(&state.record).await;
                Ok((Offered::Waits, digest))
            }
        }
    }

    /// What an operator brought is now in the source too, so the configuration says whether it decides at once.
    async fn now_of_source(
        &self,
        state: &mut State,
        digest: BundleDigest,
        origin: Origin,
    ) -> Result<(), OfferError> {
        let mut record = state.record.clone();
        let digest = digest.to_string();
        let seen = record.seen.iter_mut().find(|seen| seen.digest == digest && seen.origin != origin.name());
        if let Some(seen) = seen {
            origin.name().clone_into(&mut seen.origin);
            let replaced = self.replace(&record).await?;
            state.record = record;
            replaced.safely().map_err(OfferError::Unsynced)?;
        }
        Ok(())
    }

    /// The bundle in force stays; operators are told until one with a higher serial is in force.
    async fn remember_fork(&self, state: &mut State, bundle: &Bundle, known: &str, origin: Origin) {
        self.bundled().set_forked(true);
        self.measure();
        let (serial, digest) = (bundle.header().serial(), bundle.digest().to_string());
        if state.record.fork.as_ref().is_some_and(|fork| fork.digest == digest) {
            return;
        }
        let bundle = self.facts(bundle, origin);
        self.audit.note(Event::PolicyForked { bundle, known: known.to_owned() });
        state.record.fork = Some(SeenFork { serial, digest, at: unix_now() });
        let kept = self.replace(&state.record).await;
        if let Err(error) = kept.and_then(|it| it.safely().map_err(OfferError::Unsynced)) {
            tracing::error!(%error, "a fork of policy bundles is not remembered over a restart");
        }
    }
}

pub(super) fn seen(bundle: &Bundle, origin: Origin, now: u64) -> SeenBundle {
    let header = bundle.header();
    SeenBundle {
        serial: header.serial(),
        digest: bundle.digest().to_string(),
        name: header.name().to_owned(),
        signers: bundle.signers().to_vec(),
        expires: header.expires(),
        received_at: now,
        origin: origin.name().to_owned(),
        activated_at: None,
        activated_by: None,
    }
}
