//! Puts a bundle of the source into force by itself, after its shadow where one is wanted.

use std::time::Duration;

use kms_policy::bundle::Bundle;
use kms_policy::settings::UnattendedShadow;

use super::super::OfferError;
use super::super::unattended::{Step, Unattended};
use super::{BundleKeeper, Origin, State};
use crate::audit::Event;
use crate::clock::unix_now;
use crate::state::SeenShadow;

impl BundleKeeper {
    /// Puts a bundle of the source into force when it is valid, after its shadow where one is wanted. `now` is the time since the
    /// keeper began.
    pub(super) async fn advance(&self, now: Duration) -> Result<(), OfferError> {
        let digest = {
            let mut state = self.state.lock().await;
            let digest = state.record.pending.as_ref();
            let seen = state.record.seen.iter().find(|seen| Some(&seen.digest) == digest);
            let of_source = seen.is_some_and(|seen| Origin::named(&seen.origin) != Origin::Operators);
            let pending = state.pending.clone().filter(|_| of_source);
            let due = pending.filter(|pending| pending.header().not_before() <= unix_now());
            let Some(bundle) = due else { return Ok(()) };
            // Where nothing is allowed now, there is nothing to compare with, and every minute counts.
            let shadow = self.bundled().settings().shadow.filter(|_| self.bundled().can_decide());
            let digest = bundle.digest();
            if let Some(shadow) = shadow
                && !self.has_shadowed(&mut state, bundle, shadow, now).await
            {
                return Ok(());
            }
            digest
        };
        let activated = self.activate(digest, None).await;
        if let Err(error) = &activated {
            tracing::error!(domain = self.domain, %error, "the policy bundle that waits is not put in force");
        }
        activated.map(|_| ())
    }

    /// Whether the bundle that waits has judged live requests for long enough.
    async fn has_shadowed(
        &self,
        state: &mut State,
        bundle: Bundle,
        shadow: UnattendedShadow,
        now: Duration,
    ) -> bool {
        let (bundled, digest) = (self.bundled(), bundle.digest());
        let text = digest.to_string();
        if state.unattended.as_ref().is_none_or(|it| it.digest() != text) {
            let known = state.record.shadow.clone().filter(|known| known.digest == text);
            let before = known.unwrap_or_else(|| SeenShadow::of(text));
            tracing::info!(domain = self.domain, %digest, "a policy bundle judges live requests, without deciding");
            bundled.set_held(before.held);
            bundled.begin_shadow(bundle.clone());
            self.remember(state, before.clone()).await;
            state.unattended = Some(Unattended::resume(before, now));
        }
        let seen = bundled.differences(digest).unwrap_or_default();
        let Some(unattended) = &mut state.unattended else { return false };
        match unattended.step(now, seen, shadow) {
            Step::Wait => false,
            Step::Save(so_far) => {
                self.remember(state, so_far).await;
                false
            }
            Step::Hold(so_far) => {
                bundled.set_held(true);
                tracing::warn!(domain = self.domain, %digest, "a policy bundle waits for an operator: it would deny what is allowed");
                let seen = state.record.seen.iter().find(|seen| seen.digest == so_far.digest);
                let origin = seen.map_or(Origin::Operators, |seen| Origin::named(&seen.origin));
                self.audit.note(Event::PolicyBundleHeld {
                    bundle: self.facts(&bundle, origin),
                    compared: so_far.compared,
                    newly_denied: so_far.newly_denied,
                    denies_this_kms: so_far.denies_this_kms,
                });
                self.remember(state, so_far).await;
                false
            }
            Step::Activate => true,
        }
    }

    /// Saves what a shadow has seen.
    async fn remember(&self, state: &mut State, so_far: SeenShadow) {
        if state.record.shadow.as_ref() == Some(&so_far) {
            return;
        }
        state.record.shadow = Some(so_far);
        let kept = self.replace(&state.record).await;
        if let Err(error) = kept.and_then(|it| it.safely().map_err(OfferError::Unsynced)) {
            tracing::error!(%error, "what a policy bundle would change is not remembered over a restart");
        }
    }
}
