//! Puts the bundle that waits into force.

use std::time::SystemTime;

use kms_policy::bundle::BundleDigest;

use super::super::OfferError;
use super::{Activated, BundleKeeper, Origin, State};
use crate::audit::{Event, Receipt};
use crate::clock::unix_now;
use crate::control::Author;

impl BundleKeeper {
    /// Puts the bundle that waits into force.
    ///
    /// # Errors
    /// No bundle with this digest waits; it is not valid now; the disk or the audit log does not take it.
    pub async fn activate(
        &self,
        digest: BundleDigest,
        author: Option<&Author>,
    ) -> Result<Activated, OfferError> {
        let mut state = self.state.lock().await;
        if self.bundled().is_in_force(digest)
            && let Some(in_force) = self.bundled().bundle()
        {
            return Ok(Activated { changed: false, serial: in_force.bundle.header().serial() });
        }
        let pending = state.pending.clone().filter(|pending| pending.digest() == digest);
        let bundle = pending.ok_or(OfferError::NotPending(digest))?;
        let (header, now) = (bundle.header(), unix_now());
        let serial = header.serial();
        if now < header.not_before() {
            return Err(OfferError::NotYetValid(header.not_before()));
        }
        if header.expires() <= now {
            return Err(OfferError::Expired(header.expires()));
        }
        let mut record = state.record.clone();
        let replaces = record.in_force.replace(digest.to_string());
        record.pending = None;
        record.shadow = None;
        record.fork.take_if(|fork| fork.serial < serial);
        let mut origin = Origin::Operators;
        if let Some(seen) = record.seen.iter_mut().find(|seen| seen.serial == serial) {
            origin = Origin::named(&seen.origin);
            seen.activated_at = Some(now);
            seen.activated_by = Some(author.map_or("configuration".to_owned(), |author| author.by.clone()));
        }
        // First the record that cannot be taken back: a lost file of serials is made up from it.
        let event = Event::PolicyBundleActivated {
            bundle: self.facts(&bundle, origin),
            replaces,
            by: author.map(|author| author.by.clone()),
            remote: author.map(|author| author.remote),
        };
        let _recorded: Receipt = self.audit.record(event).await.map_err(OfferError::Audit)?;
        let replaced = self.replace(&record).await.inspect_err(|error| {
            // The last record in the log must be true.
            self.record_refusal(error, origin, author);
        })?;
        self.bundled().set_forked(record.fork.is_some());
        self.bundled().put_in_force(bundle, SystemTime::now());
        *state = State { record, pending: None, unattended: None };
        self.bundled().end_shadow();
        self.bundled().set_held(false);
        // The one before stays until the disk has the record that does not name it.
        replaced.safely().map_err(OfferError::Unsynced)?;
        self.forget_others(&state.record).await;
        Ok(Activated { changed: true, serial })
    }
}
