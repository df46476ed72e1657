//! A permit whose release is in the audit log, which `Ready` requires before it returns a secret.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use kms_wire::method::Method;

use crate::admission::{App, Certificate, Decided, Kms, Permit, SelfAuthorization, StageRule};
use crate::audit::{Audit, AuditError, Basis, Event, Leaf, Proof, Receipt, Subject};
use crate::control::{Domains, Freeze, Freezes, NotFrozen, Stopped};
use crate::keys::epoch::RootEpoch;
use crate::state::shared::Stale;

/// A recorded permit in the role `R`, whose holder is not frozen. Without a line in the log, no key.
#[derive(Debug)]
pub struct Released<R> {
    permit: Permit<R>,
    receipt: Receipt,
    subject: Box<Subject>,
    _not_frozen: NotFrozen,
}

/// Why a permit releases nothing.
#[derive(Debug)]
pub enum NotReleased {
    /// The line could not be written to the disk.
    Unrecorded(AuditError),
    /// An operator has frozen the caller, or everything, after the permit was made.
    Frozen(Arc<Freeze>),
    /// Whether one did is not known any more.
    Stale(Stale),
    /// The domain of the caller was changed or archived, or the app moved to another, after the permit was made.
    Moved,
    /// The decision about the caller or about this KMS is too old: a permission may have been revoked since.
    Outdated,
}

impl From<AuditError> for NotReleased {
    fn from(error: AuditError) -> Self {
        Self::Unrecorded(error)
    }
}

impl From<Stopped> for NotReleased {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Frozen(freeze) => Self::Frozen(freeze),
            Stopped::Stale(stale) => Self::Stale(stale),
        }
    }
}

/// What a release must pass: the audit log, the freezes, and the domain of the caller.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseGuards<'a> {
    /// Records it.
    pub audit: &'a Audit,
    /// Stop it.
    pub freezes: &'a Freezes,
    /// Say where the caller is now.
    pub domains: &'a Domains,
}

impl<R> Released<R> {
    /// The recorded permit.
    pub fn permit(&self) -> &Permit<R> {
        &self.permit
    }

    /// The number of the release's record.
    pub fn seq(&self) -> u64 {
        self.receipt.seq()
    }

    /// The leaf of the release in the signed log; `None` if the log is not a file.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.receipt.leaf()
    }

    /// Checks again after the line is written, because that takes time: a caller that was frozen meanwhile
    /// gets nothing, nor does a decision that has become too old, and the log says so.
    async fn after(
        event: impl FnOnce(Subject) -> Event,
        guards: ReleaseGuards<'_>,
        permit: Permit<R>,
        self_authorization: &SelfAuthorization,
        to: IpAddr,
        clock: impl Fn() -> Instant,
    ) -> Result<Self, (NotReleased, Permit<R>)> {
        let ReleaseGuards { audit, freezes, domains } = guards;
        let may_go = |permit: &Permit<R>| {
            let now = clock();
            if permit.is_outdated(now) || self_authorization.is_outdated(now) {
                return Err(NotReleased::Outdated);
            }
            if !permit.placed().is_still_in(domains, permit.identity()) {
                return Err(NotReleased::Moved);
            }
            freezes.check(permit.identity()).map_err(NotReleased::from)
        };
        if let Err(refused) = may_go(&permit) {
            return Err((refused, permit));
        }
        let identity = permit.identity();
        let shown = permit.shown();
        let basis = Basis {
            evidence_sha256: (!permit.is_fresh()).then(|| hex::encode(shown.digest)),
            stage: shown.stage.name(),
            stage_rule: permit.stage_rule().map(StageRule::name),
        };
        let proof = if permit.is_fresh() { Proof::Fresh } else { Proof::Certificate };
        let subject = Subject::new(identity, to)
            .relaxed(permit.relaxations())
            .showing(basis)
            .holding(shown.spki_sha256)
            .by_rules(permit.decided_by().digest)
            .of_epochs(permit.epochs())
            .in_domain(permit.domain())
            .proved(proof);
        let event = event(subject.clone());
        // Of what is withheld; the record of a handover says it by its type.
        let is_handover = matches!(event, Event::KmsKeyReleased { .. });
        let subject = if is_handover { subject.of_kms() } else { subject };
        let receipt = match audit.record(event).await {
            Ok(receipt) => receipt,
            Err(error) => return Err((NotReleased::Unrecorded(error), permit)),
        };
        let witnessed = audit.witnessed(&receipt).await.map_err(NotReleased::from);
        match witnessed.and_then(|()| may_go(&permit)) {
            Ok(not_frozen) => {
                Ok(Self { permit, receipt, subject: Box::new(subject), _not_frozen: not_frozen })
            }
            Err(refused) => {
                record_withheld(audit, subject, &receipt).await;
                Err((refused, permit))
            }
        }
    }

    /// Records that it did not happen after all. The permit gives access to nothing.
    pub async fn withhold(self, audit: &Audit) -> Permit<R> {
        let Self { permit, receipt, subject, _not_frozen } = self;
        record_withheld(audit, *subject, &receipt).await;
        permit
    }
}

async fn record_withheld(audit: &Audit, subject: Subject, receipt: &Receipt) {
    let withheld = Event::Withheld { subject, released: receipt.seq() };
    if let Err(error) = Box::pin(audit.record(withheld)).await {
        tracing::error!(%error, "the audit log does not say that a release was withheld");
    }
}

impl Released<App> {
    /// Records that an app receives its keys, with this KMS's own `self_authorization`.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which gives access to nothing.
    pub async fn app(
        guards: ReleaseGuards<'_>,
        permit: Permit<App>,
        self_authorization: &SelfAuthorization,
        to: IpAddr,
    ) -> Result<Self, (NotReleased, Permit<App>)> {
        let released = Self::after(
            |subject| Event::AppKeyReleased { subject },
            guards,
            permit,
            self_authorization,
            to,
            Instant::now,
        )
        .await?;
        let permit = &released.permit;
        guards.freezes.note_release(permit.identity(), permit.domain(), Method::GetAppKey.row().name);
        Ok(released)
    }
}

impl Released<Kms> {
    /// Records that a replica receives the root keys up to an epoch, with this KMS's own `self_authorization`, and the
    /// operator whose credentials were shown for it.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which gives access to nothing.
    pub async fn kms(
        guards: ReleaseGuards<'_>,
        permit: Permit<Kms>,
        self_authorization: &SelfAuthorization,
        to: IpAddr,
        operator: Option<String>,
        up_to: RootEpoch,
    ) -> Result<Self, (NotReleased, Permit<Kms>)> {
        let up_to_epoch = Some(up_to.0).filter(|_| up_to != RootEpoch::FIRST);
        let event = |subject: Subject| Event::KmsKeyReleased { subject: subject.by(operator), up_to_epoch };
        Self::after(event, guards, permit, self_authorization, to, Instant::now).await
    }
}

impl Released<Certificate> {
    /// Records that a certificate is issued, with this KMS's own `self_authorization`.
    ///
    /// # Errors
    /// [`NotReleased`], with the permit, which gives access to nothing.
    pub async fn certificate(
        guards: ReleaseGuards<'_>,
        permit: Permit<Certificate>,
        self_authorization: &SelfAuthorization,
        to: IpAddr,
        common_name: &str,
        names: &[String],
    ) -> Result<Self, (NotReleased, Permit<Certificate>)> {
        let event = |subject| Event::CertificateIssued {
            subject,
            common_name: common_name.to_owned(),
            names: names.to_vec(),
        };
        let released = Self::after(event, guards, permit, self_authorization, to, Instant::now).await?;
        let permit = &released.permit;
        guards.freezes.note_release(permit.identity(), permit.domain(), Method::SignCert.row().name);
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::time::Duration;

    use kms_attest::identity::Identity;
    use tokio::runtime::Handle;
    use tokio::task::block_in_place;

    use super::*;
    use crate::control::{Author, Earlier, Room, Scope};
    use crate::metrics::Metrics;

    struct Disk {
        directory: tempfile::TempDir,
        audit: Audit,
        freezes: Freezes,
        domains: Arc<Domains>,
    }

    impl Disk {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let audit = Audit::open(&directory.path().join("audit.jsonl")).unwrap();
            let metrics = Arc::new(Metrics::new([]));
            let domains = Domains::default_only();
            let file = directory.path().join("frozen.json");
            let freezes = Freezes::open(file, metrics, Arc::clone(&domains)).unwrap();
            Self { directory, audit, freezes, domains }
        }

        fn guards(&self) -> ReleaseGuards<'_> {
            ReleaseGuards { audit: &self.audit, freezes: &self.freezes, domains: &self.domains }
        }

        fn permit(&self) -> Permit<App> {
            self.permit_of(Instant::now())
        }

        fn permit_of(&self, decided: Instant) -> Permit<App> {
            let not_frozen = self.freezes.check(&Identity::example()).unwrap();
            Permit::for_test(&self.domains, Identity::example(), not_frozen, decided)
        }

        async fn freeze(&self) {
            let author = Author { by: "token".to_owned(), remote: Ipv4Addr::LOCALHOST.into() };
            let (reason, since) = ("leaked key".to_owned(), 1);
            let freeze = Freeze { scope: Scope::Kms, reason, since, expires_at: None, author };
            self.freezes.freeze(freeze, Earlier::IsReplaced, Room::OfOwners, &self.audit).await.unwrap();
        }

        /// The names of the events in the log, and its last line parsed.
        fn log(&self) -> (Vec<String>, serde_json::Value) {
            let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let names = lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
            (names, lines.last().cloned().unwrap_or_default())
        }
    }

    #[tokio::test]
    async fn a_permit_that_was_frozen_since_is_not_even_recorded() {
        let disk = Disk::new();
        let permit = disk.permit();
        disk.freeze().await;
        let self_authorization = SelfAuthorization::for_test(Instant::now());
        let outcome = Released::after(
            |subject| Event::AppKeyReleased { subject },
            disk.guards(),
            permit,
            &self_authorization,
            [192, 0, 2, 1].into(),
            Instant::now,
        );
        assert!(matches!(outcome.await, Err((NotReleased::Frozen(_), _))));
        assert_eq!(disk.log().0, ["frozen"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_frozen_while_the_line_is_written_is_withheld_and_the_log_says_so() {
        let disk = Disk::new();
        // The event is built between the first check and the write of the line.
        let event = |subject| {
            block_in_place(|| Handle::current().block_on(disk.freeze()));
            Event::AppKeyReleased { subject }
        };
        let self_authorization = SelfAuthorization::for_test(Instant::now());
        let (guards, permit, to) = (disk.guards(), disk.permit(), [192, 0, 2, 1].into());
        let outcome = Released::after(event, guards, permit, &self_authorization, to, Instant::now).await;
        assert!(matches!(outcome, Err((NotReleased::Frozen(_), _))));
        let (names, last) = disk.log();
        assert_eq!(names, ["frozen", "app_key_released", "withheld"]);
        assert_eq!((&last["released"], &last["app_id"]), (&2.into(), &"11".repeat(20).into()));
    }
    #[tokio::test]
    async fn what_was_decided_more_than_ten_seconds_ago_releases_nothing() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let recorded = ["app_key_released"].as_slice();
        let withheld = ["app_key_released", "withheld"].as_slice();
        // The times of permit and self-authorization; the time at the first check, and after the line is on
        // the disk.
        for (permit, self_authorization, before, after, released, log) in [
            (0, 0, 0, 0, true, recorded),
            (0, 0, 5, 10, true, recorded),
            (0, 0, 11, 11, false, [].as_slice()),
            (0, 11, 11, 11, false, &[]),
            (11, 0, 11, 11, false, &[]),
            (0, 0, 10, 11, false, withheld),
            (0, 9, 9, 14, false, withheld),
            (9, 0, 9, 14, false, withheld),
            (9, 9, 9, 14, true, recorded),
        ] {
            let disk = Disk::new();
            let clock = Mutex::new(at(before));
            // The event is built between the first check and the write of the line: a slow disk.
            let event = |subject| {
                *clock.lock().unwrap() = at(after);
                Event::AppKeyReleased { subject }
            };
            let (permit_then, self_authorization_then) = (at(permit), at(self_authorization));
            let (guards, permit_made) = (disk.guards(), disk.permit_of(permit_then));
            let self_authorization_made = SelfAuthorization::for_test(self_authorization_then);
            let to = [192, 0, 2, 1].into();
            let outcome = Released::after(event, guards, permit_made, &self_authorization_made, to, || {
                *clock.lock().unwrap()
            })
            .await;
            let case = format!("{permit} {self_authorization} {before} {after}");
            match outcome {
                Ok(_) => assert!(released, "{case}"),
                Err((NotReleased::Outdated, _)) => assert!(!released, "{case}"),
                Err((other, _)) => panic!("{case}: {other:?}"),
            }
            assert_eq!(disk.log().0, log, "{case}");
        }
    }
}
