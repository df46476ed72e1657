//! Restoring: officers give a KMS without keys the root keys of a recovery set. Everything is in memory until the threshold is
//! reached; then the keys are saved as in onboarding.

mod status;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kms_recovery::{Progress, Share, ShareError, SignedManifest};

pub use self::status::{EmptyKms, RestorePlan, RestoreStatus, Restored, RestoredEpoch, ShareAccepted};
use self::status::{epochs, head};
use super::{ONBOARDED, OnboardService, Turn, apps_with_epochs};
use crate::api::ceremony::{CeremonyStatus, Deadline, Purpose, refused};
use crate::api::{Caller, Transport};
use crate::audit::Event;
use crate::clock::{rfc3339, unix};
use crate::domain::Domain;
use crate::error::{Code, Error, Result};
use crate::lifecycle::{RecoverError, Recovering};
use crate::request;

/// How long officers have: they may be in all parts of the world.
const LASTS: Duration = Duration::from_secs(24 * 3600);

/// How far the clock of this KMS may be behind the one by which the set was made.
const CLOCK_TOLERANCE: u64 = 300;

const NOT_ALLOWED: &str = "KMS is not allowed to restore";

/// A restore that is open.
#[derive(Debug)]
struct Open {
    recovering: Recovering,
    /// That of `recovering`, to check shares without the lock.
    manifest: Arc<SignedManifest>,
    domain: Domain,
    ends: Deadline,
}

/// What officers have brought. Changed by the holder of the turn only; the lock is never held across a wait.
#[derive(Debug, Default)]
pub(super) struct Restore(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    open: Option<Open>,
    restored: Option<Restored>,
}

impl Restore {
    fn with<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.open.as_ref().is_some_and(|open| open.ends.is_over()) {
            memory.open = None;
        }
        look(&mut memory)
    }

    fn status(&self, kms: EmptyKms) -> RestoreStatus {
        self.with(|memory| RestoreStatus {
            ceremony: memory.open.as_ref().map(Open::status),
            plan: memory.open.as_ref().map(Open::plan),
            kms,
            restored: memory.restored.clone(),
        })
    }

    /// Forgets the shares at the end, although nobody asks.
    fn end_at(&self, ends: Deadline) {
        let memory: Weak<Mutex<Memory>> = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(ends.left() + Duration::from_millis(1)).await;
            if let Some(memory) = memory.upgrade() {
                Self(memory).with(|_| ());
            }
        });
    }
}

impl Open {
    fn status(&self) -> CeremonyStatus {
        CeremonyStatus::of(Purpose::Restore, self.recovering.combiner(), self.ends)
    }

    fn plan(&self) -> RestorePlan {
        let manifest = self.recovering.combiner().manifest().manifest();
        RestorePlan {
            domain: self.domain.as_str().to_owned(),
            made_at: rfc3339(manifest.created_at),
            epochs: manifest.epochs.iter().map(|epoch| epoch.epoch).collect(),
        }
    }

    fn set(&self) -> String {
        self.recovering.combiner().manifest().manifest().set.to_string()
    }
}

impl OnboardService {
    /// How far a restore is. It tells no secret.
    pub fn restore_status(&self) -> RestoreStatus {
        let policy = &self.foundation.policy;
        self.restore.status(EmptyKms {
            policy: policy.kind(),
            policy_digest: policy.in_force().digest.map(hex::encode),
            relaxed: self.relaxed.clone(),
        })
    }

    /// Opens a restore of the set that `manifest`, the file `recovery-SET.json`, describes. The KMS gets the name `domain`, or
    /// the one in the manifest. The restore that is open already is only reported.
    ///
    /// # Errors
    /// The manifest is not one, or is altered; keys exist; a restore of another set, or for another name, is open; this KMS is not allowed. Nothing
    /// has changed then.
    pub async fn open_restore(
        self: Arc<Self>,
        caller: &Caller,
        manifest: Bytes,
        domain: Option<&str>,
    ) -> Result<RestoreStatus> {
        let manifest = self.checked(move || SignedManifest::parse(&manifest)).await?;
        let manifest =
            manifest.map_err(|error| Error::invalid(error.to_string()).because("manifest_wrong"))?;
        let described = manifest.manifest();
        let domain = Domain::parse(domain.unwrap_or(&described.domain))
            .map_err(|error| Error::invalid(error.to_string()))?;
        is_past(described.created_at)?;
        let remote = caller.remote();
        to_its_end(async move { self.open(manifest, domain, remote).await }).await
    }

    async fn open(&self, manifest: SignedManifest, domain: Domain, remote: IpAddr) -> Result<RestoreStatus> {
        let _turn = self.turn().await;
        self.refuse_if_committed(ONBOARDED)?;
        let is_same = self.restore.with(|memory| match &memory.open {
            None => Ok(false),
            Some(open) if open.domain != domain => {
                Err(format!("{} for {}", open.set(), open.domain.as_str()))
            }
            Some(open) if open.recovering.combiner().manifest().manifest() == manifest.manifest() => Ok(true),
            Some(open) => Err(open.set()),
        });
        match is_same {
            Ok(true) => return Ok(self.restore_status()),
            Ok(false) => {}
            Err(other) => {
                let text = format!("a restore of the set {other} is open; cancel it first");
                return Err(Error::new(Code::Conflict, text).because("restore_open"));
            }
        }
        self.allowed(NOT_ALLOWED).await?;
        let described = manifest.manifest();
        let event = Event::RestoreOpened {
            set: described.set.to_string(),
            manifest_sha256: hex::encode(described.sha256()),
            threshold: described.threshold,
            domain: domain.as_str().to_owned(),
            remote,
        };
        self.record_restore(event).await?;
        let set = described.set;
        let ends = Deadline::after(LASTS);
        self.restore.with(|memory| {
            let shared = Arc::new(manifest.clone());
            memory.open =
                Some(Open { recovering: Recovering::new(manifest), manifest: shared, domain, ends });
        });
        self.restore.end_at(ends);
        tracing::info!(%set, "a restore is open: officers may send their shares");
        Ok(self.restore_status())
    }

    /// Takes one officer's share. With the last that is needed, the keys are put together, compared with the manifest, and
    /// saved. If that fails, the shares stay, and each officer may send the share again to try again.
    ///
    /// # Errors
    /// Not over TLS; no restore is open; the share is wrong, and the text names its officer; too many are wrong; this KMS is not allowed; the keys
    /// cannot be saved.
    pub async fn take_share(
        self: Arc<Self>,
        caller: &Caller,
        body: impl AsRef<[u8]>,
    ) -> Result<ShareAccepted> {
        if caller.transport() != Transport::Tls {
            let text = "a share is accepted over TLS only: use kmsctl, which verifies this KMS first";
            return Err(Error::invalid(text).because("tls_needed"));
        }
        self.wrong.expect_few(caller.remote(), Instant::now())?;
        let share = Share::parse(body.as_ref());
        // Overwrites it.
        drop(body);
        let share = share.map_err(|error| Error::invalid(error.to_string()).because("share_wrong"))?;
        let (officer, index) = (share.officer.to_string(), share.index);
        // First, so that strangers cannot have the policy asked.
        let manifest =
            self.restore.with(|memory| memory.open.as_ref().map(|open| Arc::clone(&open.manifest)));
        let manifest = manifest.ok_or_else(none_is_open)?;
        let share =
            self.checked(move || manifest.check_share(&share).map(|()| share)).await?.map_err(|error| {
                self.wrong.count(caller.remote(), Instant::now(), &officer, index);
                refused(&error)
            })?;
        self.restore.with(|memory| expect_new(memory.open.as_ref(), &share))?;
        let (service, remote) = (Arc::clone(&self), caller.remote());
        to_its_end(async move { service.add_share(share, remote).await }).await?;
        Ok(ShareAccepted { officer, index, status: self.restore_status() })
    }

    async fn add_share(&self, share: Share, remote: IpAddr) -> Result<()> {
        let (officer, index) = (share.officer.to_string(), share.index);
        let turn = self.turn().await;
        self.refuse_if_committed(ONBOARDED)?;
        self.allowed(NOT_ALLOWED).await?;
        let memory = Arc::clone(&self.restore.0);
        let add = move || {
            Restore(memory).with(|memory| {
                let open = memory.open.as_mut().ok_or_else(none_is_open)?;
                let combiner = open.recovering.combiner_mut();
                match combiner.add(share) {
                    // Sent again: to try again what failed.
                    Err(ShareError::Repeated { .. } | ShareError::Complete)
                        if combiner.progress() == Progress::Complete =>
                    {
                        Ok(Progress::Complete)
                    }
                    added => added.map_err(|error| refused(&error)),
                }
            })
        };
        let progress = self.checked(add).await??;
        tracing::info!(officer, index, "the share of an officer is in");
        match progress {
            Progress::Complete => self.restore_keys(turn, remote).await,
            Progress::Waiting { .. } => Ok(()),
        }
    }

    /// Forgets all shares. Without a restore it changes nothing.
    ///
    /// # Errors
    /// Keys exist: the restore is done, and not cancelled. The event cannot be recorded; the restore is still open then.
    pub async fn cancel_restore(self: Arc<Self>, caller: &Caller) -> Result<RestoreStatus> {
        let remote = caller.remote();
        to_its_end(async move { self.cancel(remote).await }).await
    }

    async fn cancel(&self, remote: IpAddr) -> Result<RestoreStatus> {
        let _turn = self.turn().await;
        self.refuse_if_committed(ONBOARDED)?;
        if let Some(set) = self.restore.with(|memory| memory.open.as_ref().map(Open::set)) {
            self.record_restore(Event::RestoreCancelled { set, remote }).await?;
            self.restore.with(|memory| memory.open = None);
        }
        Ok(self.restore_status())
    }

    /// Refuses other ways to keys while officers restore some.
    pub(super) fn refuse_if_restoring(&self) -> Result<()> {
        let Some(open) = self.restore.status(EmptyKms::default()).ceremony else { return Ok(()) };
        let text = format!(
            "officers restore this KMS from the recovery set {}: {} of {} shares are in; cancel the restore first",
            open.set, open.received, open.threshold
        );
        Err(Error::new(Code::Conflict, text).because("restore_open"))
    }

    async fn restore_keys(&self, turn: Turn, remote: IpAddr) -> Result<()> {
        let memory = Arc::clone(&self.restore.0);
        let opened = tokio::task::spawn_blocking(move || {
            Restore(memory).with(|memory| {
                let open = memory.open.as_ref().ok_or_else(none_is_open)?;
                let prepared = open.recovering.prepare().map_err(unrecovered)?;
                let combiner = open.recovering.combiner();
                let described = combiner.manifest().manifest();
                let restored = Restored {
                    set: open.set(),
                    made_at: rfc3339(described.created_at),
                    apps_with_epochs: apps_with_epochs(&prepared),
                    domain: open.domain.as_str().to_owned(),
                    officers: combiner.officers().map(|(_, name)| name.to_string()).collect(),
                    epochs: epochs(combiner.manifest()),
                };
                let sha256 = hex::encode(described.sha256());
                let at = described.ledger.as_ref().map(|ledger| (ledger.origin.clone(), head(ledger)));
                Ok::<_, Error>((prepared, open.domain.clone(), restored, (sha256, described.created_at), at))
            })
        });
        let (prepared, domain, restored, (manifest_sha256, made_at), ledger) =
            opened.await.map_err(|error| Error::internal("the keys cannot be put together", error))??;
        // Again, because officers may have taken a day.
        self.allowed(NOT_ALLOWED).await?;
        let (ledger_origin, ledger_checkpoint) = ledger.unzip();
        let event = Event::KeysRestored {
            manifest_sha256,
            ledger_origin,
            ledger_checkpoint: ledger_checkpoint.flatten(),
            made_at,
            apps_with_epochs: restored.apps_with_epochs,
            domain: domain.as_str().to_owned(),
            set: restored.set.clone(),
            officers: restored.officers.clone(),
            epochs: restored.epochs.iter().map(|epoch| epoch.epoch).collect(),
            k256_pubkey: restored.epochs.last().map(|epoch| epoch.k256_pubkey.clone()).unwrap_or_default(),
        };
        let source = format!("recovery set {}", restored.set);
        let committed = self.commit_with_choices(turn, prepared, domain, event, source, remote).await;
        // A commit may fail after the keys are saved. Then no share may stay.
        let is_saved = committed.is_ok() || !matches!(self.onboarding.is_committed(), Ok(false));
        if is_saved {
            self.restore.with(|memory| memory.open = None);
        }
        committed?;
        tracing::info!(set = restored.set, "root keys restored by officers");
        self.restore.with(|memory| memory.restored = Some(restored));
        Ok(())
    }

    /// Does `work`, which takes a while, where it holds up nobody: few at once, and to its end.
    async fn checked<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = Arc::clone(&self.checks).acquire_owned().await;
        let turn = turn.map_err(|error| Error::internal("the check ended early", error))?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| Error::internal("the check ended in a panic", error))
    }

    async fn record_restore(&self, event: Event) -> Result<()> {
        let recorded = self.foundation.audit.record(event).await;
        recorded.map(drop).map_err(|error| {
            Error::unavailable("the restore cannot be recorded, so nothing has changed", error)
                .because("audit_unavailable")
        })
    }
}

/// Does `work` in a task of its own, to its end, even if the client disconnects: what is recorded must be what was done, and
/// told.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    request::spawn(work).await.map_err(|error| Error::internal("the restore ended in a panic", error))?
}

/// Whether a share that is right could be added now.
fn expect_new(open: Option<&Open>, share: &Share) -> Result<()> {
    let open = open.ok_or_else(none_is_open)?;
    let combiner = open.recovering.combiner();
    let is_in = combiner.officers().any(|(index, _)| index == share.index);
    if is_in && combiner.progress() != Progress::Complete {
        let (officer, index) = (share.officer.clone(), share.index);
        return Err(refused(&ShareError::Repeated { officer, index }));
    }
    Ok(())
}

fn none_is_open() -> Error {
    let text = "no restore is open here: an officer opens it with kmsctl recovery restore, or an operator on the page";
    Error::new(Code::Conflict, text).because("no_ceremony")
}

/// A clock before the time at which the set was made is wrong, and what it says of collateral is too.
fn is_past(created_at: u64) -> Result<()> {
    let now = unix(SystemTime::now());
    if created_at <= now.saturating_add(CLOCK_TOLERANCE) {
        return Ok(());
    }
    let text = format!(
        "the clock of this KMS says {}, but the set was made at {}: correct the clock",
        rfc3339(now),
        rfc3339(created_at)
    );
    Err(Error::new(Code::Conflict, text).because("clock_behind"))
}

fn unrecovered(error: RecoverError) -> Error {
    Error::invalid(error.to_string()).because("set_unusable")
}

#[cfg(test)]
mod tests {
    use kms_recovery::{Bytes, Checkpoint, Description, EpochFingerprint, Named, split};

    use super::*;
    use crate::keys::RootKeys;

    fn open(lasts: Duration) -> Open {
        let root = RootKeys::generate();
        let officer = |name: &str| Named {
            name: name.parse().unwrap(),
            recipient: age::x25519::Identity::generate().to_public().to_string().parse().unwrap(),
        };
        let description = Description {
            created_at: 0,
            domain: "kms.example".to_owned(),
            identity_epoch: 0,
            epochs: vec![EpochFingerprint {
                epoch: 0,
                ca_spki_sha256: Bytes([0; 32]),
                k256_public: Bytes(root.k256_public()),
                activate_at: Some(0),
                retired_at: None,
                destroyed_at: None,
            }],
            ledger: None,
        };
        let sign = |digest| root.k256().sign_digest(digest);
        let set = split(b"material", 2, &[officer("ann"), officer("bob")], description, sign).unwrap();
        let domain = Domain::parse("kms.example").unwrap();
        let manifest = Arc::new(set.manifest.clone());
        Open { recovering: Recovering::new(set.manifest), manifest, domain, ends: Deadline::after(lasts) }
    }

    #[test]
    fn the_head_of_a_log_is_its_size_and_its_root() {
        let of = |checkpoint: &str| {
            head(&Checkpoint { origin: "log.example".to_owned(), checkpoint: checkpoint.to_owned() })
        };
        assert_eq!(of("log.example\n7\nq83v=\n\n— log.example abc\n").as_deref(), Some("7 q83v="));
        for other in
            ["", "log.example\n", "log.example\n7\n", "log.example\n-7\nq83v\n", "log.example\n7\na b\n"]
        {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[test]
    fn after_its_end_a_restore_is_not_there() {
        let restore = Restore::default();
        restore.with(|memory| memory.open = Some(open(Duration::from_secs(60))));
        let status = restore.status(EmptyKms::default());
        assert_eq!(status.ceremony.map(|open| open.threshold), Some(2));
        let plan = status.plan.expect("what it gives");
        assert_eq!((&*plan.domain, plan.epochs), ("kms.example", vec![0]));
        assert_eq!(plan.made_at, "1970-01-01T00:00:00Z");
        restore.with(|memory| memory.open = Some(open(Duration::ZERO)));
        assert_eq!(restore.status(EmptyKms::default()).ceremony, None);
    }

    #[tokio::test]
    async fn shares_are_forgotten_at_the_end_although_nobody_asks() {
        let restore = Restore::default();
        let open = open(Duration::from_millis(50));
        let ends = open.ends;
        restore.with(|memory| memory.open = Some(open));
        restore.end_at(ends);
        let is_forgotten = async {
            while restore.0.lock().unwrap().open.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_forgotten).await.expect("they are forgotten");
    }
}
