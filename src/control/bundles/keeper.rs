//! Takes bundles, keeps them, and puts them in force.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kms_attest::state_file::Replaced;
use kms_policy::Policy;
use kms_policy::bundle::source::{Fetched, Fetcher, read_file};
use kms_policy::bundle::{Bundle, BundleDigest, Bundled};
use kms_policy::settings::{Activation, BundleSource, PinnedKeys, UnattendedShadow};
use sha2::{Digest as _, Sha256};

use super::OfferError;
use super::error::TRY_AGAIN;
use super::fleet::{InFleet, OfFleet};
use super::past::last_activated;
use super::serials::{Standing, compare, highest};
use super::unattended::{Step, Unattended};
use crate::audit::{Audit, Beginning, BundleFacts, Event, Receipt};
use crate::clock::{rfc3339, unix_now};
use crate::control::Author;
use crate::metrics::{BundleMeasured, Metrics};
use crate::state::{BundleFileError, BundleFiles, BundleRecord, SeenBundle, SeenFork, SeenShadow};

/// The most bundles in the record of those that were seen.
const MAX_SEEN: usize = 100;
/// How often a file is looked at, whatever the configuration says of servers.
const LOOK_AT_FILE: Duration = Duration::from_secs(2);
/// How often a source is asked while no bundle is in force.
const ASK_AT_FIRST: Duration = Duration::from_secs(10);
/// How long a start waits for a source.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// How often gauges are set, and it is looked whether a bundle that waits has become valid.
const TICK: Duration = Duration::from_secs(1);

/// Where a bundle came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The source of the configuration is a file.
    File,
    /// The source of the configuration is a server.
    Server,
    /// An operator.
    Operators,
    /// Another node, which has it in force.
    Fleet,
}

impl Origin {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Server => "server",
            Self::Operators => "operators",
            Self::Fleet => "fleet",
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "file" => Self::File,
            "server" => Self::Server,
            "fleet" => Self::Fleet,
            _ => Self::Operators,
        }
    }
}

/// What became of a bundle that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is in force already.
    InForce,
    /// It waits.
    Waits,
}

/// A bundle that was put in force.
#[derive(Debug, Clone)]
pub struct Activated {
    /// Whether it was in force before.
    pub changed: bool,
    /// Its serial.
    pub serial: u64,
}

/// A bundle that waits.
#[derive(Debug, Clone)]
pub struct PendingBundle(Bundle);

impl PendingBundle {
    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.0
    }
}

/// What is known of a domain's bundles.
#[derive(Debug, Clone)]
pub struct BundleView {
    /// The domain.
    pub domain: String,
    /// What was seen.
    pub record: BundleRecord,
    /// The bundle that waits.
    pub pending: Option<PendingBundle>,
}

struct State {
    record: BundleRecord,
    pending: Option<Bundle>,
    /// The bundle that waits is tried.
    unattended: Option<Unattended>,
}

/// The bundles of one domain.
pub struct BundleKeeper {
    domain: String,
    policy: Arc<Policy>,
    files: BundleFiles,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    state: tokio::sync::Mutex<State>,
    /// The times of shadows are counted from here.
    started: Instant,
    source: tokio::sync::Mutex<Fetcher>,
    /// What the fleet has in force, and this node not yet.
    pub(super) of_fleet: tokio::sync::Mutex<Option<OfFleet>>,
    /// What the fleet has in force.
    pub(super) in_fleet: Mutex<InFleet>,
    /// SHA-256 of what the source gave and was refused, so that it is recorded once.
    refused: Mutex<Option<[u8; 32]>>,
}

impl fmt::Debug for BundleKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleKeeper").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// Why bundles cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The record.
    #[error(transparent)]
    File(#[from] BundleFileError),
    /// The record is gone, and so are the serials in the audit log.
    #[error(
        "the record of policy bundles is gone, and the audit log with the last serials cannot be read: {0}"
    )]
    Log(#[source] io::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] kms_policy::SetupError),
}

impl BundleKeeper {
    /// Reads what was kept and puts the bundle that was in force into force again, if its signatures are still valid. `None` if
    /// `policy` has no bundles.
    ///
    /// # Errors
    /// [`KeeperError`]
    pub fn open(
        domain: &str,
        policy: &Arc<Policy>,
        directory: &Path,
        log: &Path,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, KeeperError> {
        let Some(bundled) = policy.bundled() else { return Ok(None) };
        let fetcher = Fetcher::new(bundled.settings())?;
        let files = BundleFiles::new(directory.to_owned(), domain);
        let record = match files.read()? {
            Some(record) => record,
            None => beginning(&files, bundled, domain, log, audit)?,
        };
        load(&files, bundled, domain, &record);
        bundled.set_forked(record.fork.is_some());
        let pending = record.pending.as_deref().and_then(|digest| kept(&files, bundled, domain, digest).ok());
        Ok(Some(Self {
            domain: domain.to_owned(),
            policy: Arc::clone(policy),
            files,
            audit: Arc::clone(audit),
            metrics: Arc::clone(metrics),
            state: tokio::sync::Mutex::new(State { record, pending, unattended: None }),
            started: Instant::now(),
            source: tokio::sync::Mutex::new(fetcher),
            of_fleet: tokio::sync::Mutex::default(),
            in_fleet: Mutex::default(),
            refused: Mutex::default(),
        }))
    }

    /// Puts into force what a start would find in the key directory, or in a file that is the source; changes nothing on the
    /// disk.
    ///
    /// # Errors
    /// [`BundleFileError`]
    pub fn inspect(domain: &str, policy: &Policy, directory: &Path) -> Result<(), BundleFileError> {
        let Some(bundled) = policy.bundled() else { return Ok(()) };
        let files = BundleFiles::new(directory.to_owned(), domain);
        let record = files.read()?.unwrap_or_default();
        load(&files, bundled, domain, &record);
        if let (None, BundleSource::File(path)) = (bundled.bundle(), &bundled.settings().source) {
            let keys = &bundled.settings().keys;
            let read = read_file(path, !keys.minisign_keys().is_empty());
            match read.map(|bytes| Bundle::open(&bytes, keys, domain)) {
                Ok(Ok(bundle)) => bundled.put_in_force(bundle, SystemTime::now()),
                Ok(Err(error)) => bundled.say_why_none(error.to_string()),
                Err(error) => bundled.say_why_none(error.to_string()),
            }
        }
        Ok(())
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The policy that has the bundle in force.
    pub fn bundled(&self) -> &Bundled {
        self.policy.bundled().expect("a keeper is made for such a policy only")
    }

    /// The serial of the bundle in force.
    pub(super) fn serial_in_force(&self) -> Option<u64> {
        self.bundled().bundle().map(|in_force| in_force.bundle.header().serial())
    }

    /// The bundle in force, with its signatures.
    pub(super) fn bytes_in_force(&self) -> Option<Vec<u8>> {
        self.bundled().bundle().map(|in_force| in_force.bundle.bytes().to_vec())
    }

    /// The highest serial that was seen here; `None` while it may change.
    pub(super) fn highest_seen(&self) -> Option<u64> {
        Some(highest(&self.state.try_lock().ok()?.record))
    }

    /// Takes no bundle with a lower serial from now on, unless the fleet has it in force.
    pub(super) async fn others_have_seen(&self, serial: u64) -> io::Result<()> {
        let mut state = self.state.lock().await;
        if serial <= state.record.seen_by_fleet.max(highest(&state.record)) {
            return Ok(());
        }
        state.record.seen_by_fleet = serial;
        let kept = self.replace(&state.record).await;
        let kept = kept.and_then(|it| it.safely().map_err(OfferError::Unsynced));
        kept.map_err(|error| io::Error::other(error.to_string()))
    }

    /// The keys that sign bundles.
    pub(super) fn keys(&self) -> PinnedKeys {
        self.bundled().settings().keys.clone()
    }

    /// What is known.
    pub async fn view(&self) -> BundleView {
        let state = self.state.lock().await;
        let mut record = state.record.clone();
        if let (Some(unattended), Some(pending)) = (&state.unattended, &state.pending) {
            let seen = self.bundled().differences(pending.digest()).unwrap_or_default();
            record.shadow = Some(unattended.so_far(self.started.elapsed(), seen));
        }
        BundleView { domain: self.domain.clone(), record, pending: state.pending.clone().map(PendingBundle) }
    }

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

    fn record_refusal(&self, error: &OfferError, origin: Origin, author: Option<&Author>) {
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

    /// Asks the source now.
    ///
    /// # Errors
    /// Why it gives nothing that can be used, for operators.
    pub async fn fetch(&self) -> Result<Option<BundleDigest>, String> {
        let mut source = self.source.lock().await;
        let fetched = source.fetch().await;
        let result = match &fetched {
            Ok(Fetched::New(..)) => "new",
            Ok(Fetched::Unchanged) => "unchanged",
            Err(_) => "failed",
        };
        self.metrics.policy_bundle_fetched(&self.domain, result);
        let outcome = match fetched {
            Ok(Fetched::Unchanged) => Ok(None),
            Ok(Fetched::New(bytes, seen)) => match self.offer(bytes, self.origin(), None).await {
                Ok((_, digest)) => {
                    source.accept(seen);
                    Ok(Some(digest))
                }
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        drop(source);
        let problem = outcome.as_ref().err().cloned();
        if self.bundled().source_problem() != problem {
            match &problem {
                Some(problem) => tracing::warn!(domain = self.domain, problem, "no new policy bundle"),
                None => {
                    tracing::info!(domain = self.domain, "the source of policy bundles can be used again")
                }
            }
            self.bundled().set_source_problem(problem);
        }
        outcome
    }

    fn origin(&self) -> Origin {
        match self.bundled().settings().source {
            BundleSource::Operators => Origin::Operators,
            BundleSource::File(_) => Origin::File,
            BundleSource::Server(_) => Origin::Server,
        }
    }

    /// Takes what the source has at a start: from a file, and from a server if no bundle is in force.
    pub async fn begin(&self) {
        let is_file = matches!(self.bundled().settings().source, BundleSource::File(_));
        let is_needed = self.bundled().bundle().is_none() && self.origin() == Origin::Server;
        if !is_file && !is_needed {
            return;
        }
        let first = async {
            // Its outcome is in the view.
            let _ = self.fetch().await;
            if self.bundled().settings().activation == Activation::Automatic {
                // Its failure is in the log, and it is tried again.
                let _ = self.advance(self.started.elapsed()).await;
            }
        };
        if tokio::time::timeout(FIRST_WAIT, first).await.is_err() {
            tracing::warn!(
                domain = self.domain,
                "the source of policy bundles is slow; the start goes on without it"
            );
        }
    }

    /// Asks the source from time to time, and puts into force what the configuration wants at once, until dropped.
    pub async fn keep_fresh(&self) {
        let settings = self.bundled().settings();
        let mut asked: Option<Instant> = None;
        let mut failed: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let every = match (&settings.source, self.bundled().bundle()) {
                (BundleSource::Operators, _) => None,
                (BundleSource::File(_), _) => Some(LOOK_AT_FILE.min(settings.poll_interval)),
                (BundleSource::Server(_), None) => Some(ASK_AT_FIRST.min(settings.poll_interval)),
                (BundleSource::Server(_), Some(_)) => Some(settings.poll_interval),
            };
            if every.is_some_and(|every| asked.is_none_or(|asked| asked.elapsed() >= every)) {
                asked = Some(Instant::now());
                // Its outcome is in the view.
                let _ = self.fetch().await;
            }
            self.follow_again().await;
            let may_try = failed.is_none_or(|failed| failed.elapsed() >= TRY_AGAIN);
            if settings.activation == Activation::Automatic && may_try {
                failed = self.advance(self.started.elapsed()).await.is_err().then(Instant::now);
            }
            self.measure();
        }
    }

    /// Puts a bundle of the source into force when it is valid, after its shadow where one is wanted. `now` is the time since the
    /// keeper began.
    async fn advance(&self, now: Duration) -> Result<(), OfferError> {
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

    fn measure(&self) {
        let in_force = self.bundled().bundle();
        let header = in_force.as_ref().map(|in_force| in_force.bundle.header());
        let left = header.map(|header| header.expires().cast_signed() - unix_now().cast_signed());
        self.metrics.set_policy_bundle(
            &self.domain,
            BundleMeasured {
                serial: header.map_or(0, |header| header.serial()),
                expires_in: left,
                is_forked: self.bundled().is_forked(),
            },
        );
    }

    fn facts(&self, bundle: &Bundle, origin: Origin) -> BundleFacts {
        let header = bundle.header();
        BundleFacts {
            domain: self.domain.clone(),
            bundle: header.name().to_owned(),
            serial: header.serial(),
            policy_sha256: bundle.digest().to_string(),
            signers: bundle.signers().to_vec(),
            expires: rfc3339(header.expires()),
            origin: origin.name(),
        }
    }

    async fn keep(&self, bundle: &Bundle) -> Result<(), OfferError> {
        let (files, bundle) = (self.files.clone(), bundle.clone());
        let kept = tokio::task::spawn_blocking(move || files.keep(bundle.digest(), bundle.bytes())).await;
        kept.map_err(|_| OfferError::Panic)?.map_err(OfferError::Disk)
    }

    /// Removes the bundles that the record does not need.
    async fn forget_others(&self, record: &BundleRecord) {
        let needed = [&record.in_force, &record.pending].into_iter().flatten();
        let needed: Vec<_> = needed.filter_map(|digest| BundleDigest::parse(digest)).collect();
        let files = self.files.clone();
        let _ = tokio::task::spawn_blocking(move || files.forget_others(&needed)).await;
    }

    async fn replace(&self, record: &BundleRecord) -> Result<Replaced, OfferError> {
        let (files, record) = (self.files.clone(), record.clone());
        let replaced = tokio::task::spawn_blocking(move || files.replace(&record)).await;
        replaced.map_err(|_| OfferError::Panic)?.map_err(OfferError::Disk)
    }
}

fn seen(bundle: &Bundle, origin: Origin, now: u64) -> SeenBundle {
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

/// Verifies a kept bundle again.
fn kept(files: &BundleFiles, bundled: &Bundled, domain: &str, digest: &str) -> Result<Bundle, String> {
    let digest = BundleDigest::parse(digest).ok_or("its digest in the record is not one")?;
    let bytes = files.kept(digest).map_err(|error| format!("it cannot be read: {error}"))?;
    let bundle = Bundle::open(&bytes, &bundled.settings().keys, domain).map_err(|error| error.to_string())?;
    if bundle.digest() == digest { Ok(bundle) } else { Err("it is another one".to_owned()) }
}

/// Puts the bundle that was in force into force again.
fn load(files: &BundleFiles, bundled: &Bundled, domain: &str, record: &BundleRecord) {
    let Some(digest) = &record.in_force else {
        let highest = highest(record);
        if highest > 0 && record.pending.is_none() {
            bundled.say_why_none(format!(
                "no signed bundle is in force; the next one needs serial {highest} or higher"
            ));
        }
        return;
    };
    let seen = record.seen.iter().find(|seen| seen.digest == *digest);
    let minimum = bundled.settings().minimum_serial;
    match kept(files, bundled, domain, digest) {
        // By the bundle itself, because the record of it can be gone.
        Ok(bundle) if bundle.header().serial() < minimum => bundled.say_why_none(format!(
            "the bundle that was in force has serial {}, below core.auth_api.bundle.minimum_serial",
            bundle.header().serial()
        )),
        Ok(bundle) => {
            let since = seen.and_then(|seen| seen.activated_at).map_or_else(SystemTime::now, |seconds| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(unix_now()))
            });
            bundled.put_in_force(bundle, since);
        }
        Err(problem) => {
            tracing::error!(domain, problem, "the policy bundle that was in force cannot be used");
            bundled.say_why_none(format!("the bundle that was in force cannot be used: {problem}"));
        }
    }
}

/// The record of a start that finds none: empty for a new KMS. Where the audit log or kept bundles show that there was one, its
/// serials still count.
fn beginning(
    files: &BundleFiles,
    bundled: &Bundled,
    domain: &str,
    log: &Path,
    audit: &Audit,
) -> Result<BundleRecord, KeeperError> {
    let mut record = BundleRecord::default();
    if audit.beginning() == Beginning::Continued {
        record.seen.extend(last_activated(log, audit, domain).map_err(KeeperError::Log)?);
    }
    for bytes in files.all_kept() {
        if let Ok(bundle) = Bundle::open(&bytes, &bundled.settings().keys, domain)
            && record.seen.iter().all(|seen| seen.serial != bundle.header().serial())
        {
            record.seen.push(seen(&bundle, Origin::Operators, 0));
        }
    }
    record.seen.sort_by_key(|seen| std::cmp::Reverse(seen.serial));
    record.floor = highest(&record);
    if record.floor > 0 {
        tracing::error!(domain, floor = record.floor, "the file with the serials of policy bundles is gone");
        audit.note(Event::PolicySerialsLost { domain: domain.to_owned(), floor: record.floor });
    }
    if let Err(error) = files.replace(&record).and_then(Replaced::safely) {
        tracing::error!(%error, "the serials of policy bundles cannot be written");
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
