//! Self-authorization: this KMS asks policy about itself before it serves requests.

mod own;
mod refusal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use kms_attest::attester::Attester;
use kms_attest::identity::BootInfo;
use kms_attest::single_flight::{Answer, Latest};
use kms_attest::verify::Verifier;
use kms_policy::{Decision, NotCompared, Policy, PolicyError, Unsettled};
use tokio::sync::{Mutex, Notify, watch};

use self::own::{Booted, Own};
use super::image_check::{Settled, settled};
use super::permit::SelfAuthorization;
use super::{ImageCheck, Relaxations, TcbTolerance, Tolerated, asked};
use crate::metrics::Upstream;

pub use self::own::{OwnEvidenceError, own_evidence, own_identity};
pub use self::refusal::{Missing, SelfDenial, SelfDenialCode, SelfRefusal};

/// The interval of background requests to policy. After a revocation, methods that anyone may call go on
/// answering for at most this interval and the time of one request.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The interval with an Ethereum policy, whose nodes count requests, while no caller needs an answer.
const ASK_CHAIN_EVERY: Duration = Duration::from_secs(2);
/// With an Ethereum policy, a caller that finds an answer of this age starts the next request and does not
/// wait for it.
const ASK_CHAIN_FROM: Duration = Duration::from_millis(200);
/// With an Ethereum policy, a caller that finds an answer of this age waits for the next one.
const WAIT_FROM: Duration = Duration::from_millis(400);
/// The longest such wait. After it, the last answer is used, as while the backend does not respond.
const WAIT_FOR: Duration = Duration::from_millis(400);
/// How long the last answer is used while the backend does not respond.
const LIFETIME: Duration = Duration::from_secs(15);
/// Requests to policy at a time. A few callers do not wait for each other; many callers share answers.
const AT_A_TIME: usize = 8;
/// How long the start of the KMS phase waits for the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Asks policy about this KMS and keeps the answer for some seconds.
#[derive(Debug)]
pub struct SelfAuthorizer {
    requirement: Requirement,
    /// The last answer of policy. It limits the requests.
    answers: Latest<Answered>,
    /// The last request without an answer.
    unanswered: ArcSwapOption<Outage>,
    /// Wakes [`SelfAuthorizer::keep_fresh`], which asks on behalf of all callers of methods that anyone may
    /// call.
    wanted: Notify,
    /// Signals the end of a request of [`SelfAuthorizer::keep_fresh`].
    ended: watch::Sender<()>,
}

#[derive(Debug)]
enum Requirement {
    /// `core.enforce_self_authorization = false`.
    Waived,
    Enforced {
        attester: Arc<Attester>,
        verifier: Arc<Verifier>,
        policy: Arc<Policy>,
        tolerance: Arc<TcbTolerance>,
        image: ImageCheck,
        own: ArcSwapOption<Own>,
        /// The relaxations that were logged last.
        needed: ArcSwap<Relaxations>,
    },
}

type Answered = Result<SelfAuthorization, SelfDenial>;

/// The last request to the policy that had no response.
#[derive(Debug)]
struct Outage {
    missing: Missing,
    detail: String,
    began: Instant,
}

impl Outage {
    fn refusal(&self) -> SelfRefusal {
        SelfRefusal::Unknown { missing: self.missing, detail: self.detail.clone() }
    }
}

impl SelfAuthorizer {
    /// Policy is not asked: `core.enforce_self_authorization = false`.
    pub fn waived() -> Self {
        Self::with(Requirement::Waived)
    }

    /// Policy is asked about the evidence of this KMS that `attester` returns.
    pub fn enforced(
        attester: Arc<Attester>,
        verifier: Arc<Verifier>,
        policy: Arc<Policy>,
        tolerance: Arc<TcbTolerance>,
        image: ImageCheck,
    ) -> Self {
        Self::with(Requirement::Enforced {
            attester,
            verifier,
            policy,
            tolerance,
            image,
            own: ArcSwapOption::empty(),
            needed: ArcSwap::default(),
        })
    }

    fn with(requirement: Requirement) -> Self {
        Self {
            requirement,
            answers: Latest::new(AT_A_TIME),
            unanswered: ArcSwapOption::empty(),
            wanted: Notify::new(),
            ended: watch::Sender::new(()),
        }
    }

    /// Self-authorization by the last answer, without a request and without waiting:
    /// [`SelfAuthorizer::keep_fresh`] asks.
    ///
    /// # Errors
    /// [`SelfRefusal::Denied`] if this KMS is denied, [`SelfRefusal::Unknown`] if there is no recent answer.
    pub fn current(&self) -> Result<SelfAuthorization, SelfRefusal> {
        if matches!(self.requirement, Requirement::Waived) {
            return Ok(SelfAuthorization::granted());
        }
        match self.answers.last().filter(|recent| recent.asked.elapsed() < LIFETIME) {
            Some(recent) => recent.value.clone().map_err(SelfRefusal::Denied),
            None => Err(self.no_recent_answer()),
        }
    }

    /// [`SelfAuthorizer::current`], for methods that anyone may call. An Ethereum policy is not asked twice a
    /// second while there are no callers. Instead, the first caller after a pause starts a request and waits
    /// for it for a moment.
    ///
    /// # Errors
    /// As [`SelfAuthorizer::current`].
    pub async fn recent(&self) -> Result<SelfAuthorization, SelfRefusal> {
        if self.ask_every() > ASK_EVERY {
            let mut ended = self.ended.subscribe();
            let age = self.age();
            if age > ASK_CHAIN_FROM {
                self.wanted.notify_one();
            }
            if age > WAIT_FROM {
                let _ = tokio::time::timeout(WAIT_FOR, ended.changed()).await;
            }
        }
        self.current()
    }

    /// The time since the start of the last request that has ended.
    fn age(&self) -> Duration {
        let (recent, unanswered) = (self.answers.last(), self.unanswered.load());
        let asked = [recent.as_ref().map(|it| it.asked), unanswered.as_ref().map(|it| it.began)];
        asked.into_iter().flatten().max().map_or(Duration::MAX, |asked| asked.elapsed())
    }

    /// The outcome of the last request that has ended, with or without an answer. It makes no request and
    /// does not wait.
    ///
    /// # Errors
    /// As [`SelfAuthorizer::current`], which uses an answer although later requests had none.
    pub fn last_outcome(&self) -> Result<(), SelfRefusal> {
        if matches!(self.requirement, Requirement::Waived) {
            return Ok(());
        }
        let (recent, unanswered) = (self.answers.last(), self.unanswered.load());
        match (recent.as_ref(), unanswered.as_ref()) {
            (Some(recent), Some(unanswered)) if unanswered.began > recent.asked => Err(unanswered.refusal()),
            (Some(recent), _) if recent.asked.elapsed() < LIFETIME => {
                recent.value.clone().map(|_| ()).map_err(SelfRefusal::Denied)
            }
            (None, Some(unanswered)) => Err(unanswered.refusal()),
            _ => Err(self.no_recent_answer()),
        }
    }

    /// Whether policy is asked about this KMS.
    pub fn is_enforced(&self) -> bool {
        matches!(self.requirement, Requirement::Enforced { .. })
    }

    fn no_recent_answer(&self) -> SelfRefusal {
        let missing =
            self.unanswered.load().as_ref().map_or(Missing::Policy, |unanswered| unanswered.missing);
        SelfRefusal::Unknown { missing, detail: "no answer in the last seconds".to_owned() }
    }

    /// Makes the first request, so that the first callers find an answer. The wait for it is short.
    pub async fn prepare(&self) {
        let _ = tokio::time::timeout(FIRST_ANSWER, self.fresh()).await;
    }

    /// Self-authorization by a request that is not older than the call, for releases of keys and after
    /// changes of an operator. Concurrent calls share a request.
    ///
    /// # Errors
    /// [`SelfRefusal::Denied`] if this KMS is denied, [`SelfRefusal::Unknown`] if the backend does not
    /// respond or there is no own evidence.
    pub async fn fresh(&self) -> Result<SelfAuthorization, SelfRefusal> {
        match self.requirement {
            Requirement::Waived => Ok(SelfAuthorization::granted()),
            Requirement::Enforced { .. } => self.refresh().await,
        }
    }

    /// The identity of this KMS in the form that policy gets; `None` if it is not known, or if policy is not
    /// asked.
    pub fn told_identity(&self) -> Option<BootInfo> {
        let Requirement::Enforced { own, tolerance, .. } = &self.requirement else { return None };
        let known = own.load_full()?;
        Some(tolerance.apply(&known.verdict, &known.identity).told)
    }

    /// A decision about this KMS by other rules than those in force, after the comparison with its OS image if it depends
    /// on that.
    pub async fn settled(&self, decision: Decision) -> Settled {
        let booted = async || match &self.requirement {
            Requirement::Waived => Err(NotCompared::IdentityOnly),
            Requirement::Enforced { own, image, .. } => match own.load_full() {
                None => Err(NotCompared::IdentityOnly),
                Some(own) => own.booted(image).await,
            },
        };
        settled(decision, booted).await.unwrap_or_else(|unsettled| Settled::Denied(unsettled.denied()))
    }

    /// Renews the answer in the background until dropped.
    pub async fn keep_fresh(&self) {
        let mut tick = tokio::time::interval(self.ask_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut logged: Option<String> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.wanted.notified() => tick.reset(),
            }
            let refusal = self.fresh().await.err().map(|refusal| match refusal {
                SelfRefusal::Unknown { missing, detail } => format!("{}: {detail}", missing.words()),
                denied @ SelfRefusal::Denied(_) => format!("KMS self authorization failed: {denied}"),
            });
            // Log changes only.
            if refusal != logged {
                match &refusal {
                    Some(reason) => {
                        tracing::warn!(reason, "this KMS has no self-authorization and releases nothing")
                    }
                    None => tracing::info!("this KMS has its self-authorization again"),
                }
                logged = refusal;
            }
            self.ended.send_replace(());
        }
    }

    fn ask_every(&self) -> Duration {
        match &self.requirement {
            Requirement::Waived => ASK_EVERY,
            Requirement::Enforced { policy, .. } => match **policy {
                Policy::Ethereum(_) => ASK_CHAIN_EVERY,
                Policy::AllowAll(_) | Policy::Allowlist(_) | Policy::Bundled(_) | Policy::Webhook(_) => {
                    ASK_EVERY
                }
            },
        }
    }

    async fn refresh(&self) -> Result<SelfAuthorization, SelfRefusal> {
        let called = Instant::now();
        let is_fresh = |answer: &Arc<Answer<Answered>>| answer.asked >= called;
        let answer = self.answers.get(is_fresh, async |_| self.ask(called).await).await?;
        answer.value.clone().map_err(SelfRefusal::Denied)
    }

    /// Asks policy, unless a request that began after `called` has ended without an answer.
    async fn ask(&self, called: Instant) -> Result<Answered, SelfRefusal> {
        if let Some(outage) = self.unanswered.load().as_ref().filter(|outage| outage.began >= called) {
            return Err(outage.refusal());
        }
        let asked = Instant::now();
        // An outage is not an answer: the last answer is used until it is too old.
        match self.decide().await {
            Ok(Settled::Allowed) => Ok(Ok(SelfAuthorization::granted())),
            Ok(Settled::Denied(denial)) => Ok(Err(SelfDenial::denied(denial))),
            Err(OwnDecisionError::Evidence(OwnEvidenceError::Verify(error))) if !error.is_unavailable() => {
                Ok(Err(SelfDenial::unproven(&error)))
            }
            Err(OwnDecisionError::Evidence(error)) => Err(self.unanswered(Missing::of(&error), error, asked)),
            Err(OwnDecisionError::OsImage(error)) => Err(self.unanswered(Missing::OsImage, error, asked)),
            Err(OwnDecisionError::Policy(error)) => {
                Err(self.unanswered(Missing::Policy, error.detail(), asked))
            }
        }
    }

    fn unanswered(&self, missing: Missing, detail: impl ToString, asked: Instant) -> SelfRefusal {
        let unanswered = Outage { missing, detail: detail.to_string(), began: asked };
        let refusal = unanswered.refusal();
        self.unanswered.store(Some(Arc::new(unanswered)));
        refusal
    }

    async fn decide(&self) -> Result<Settled, OwnDecisionError> {
        let Requirement::Enforced { attester, verifier, policy, tolerance, image, own, needed } =
            &self.requirement
        else {
            return Ok(Settled::Allowed);
        };
        // Also for a known identity, which a clock that was set back would keep valid.
        verifier.cache().clock().check().map_err(|behind| OwnEvidenceError::Verify(behind.into()))?;
        let known = own.load_full().filter(|own| {
            super::peer::is_current(own.until, own.verified)
                && own.collateral_generation == verifier.cache().generation()
        });
        let known = match known {
            Some(known) => known,
            None => {
                let evidence = Box::pin(own_evidence(attester, verifier));
                let cause = |error: &OwnEvidenceError| Missing::of(error).name().to_owned();
                let verified = tolerance.metrics().ask(Upstream::OwnEvidence, evidence, cause).await?;
                let identity = own_identity(&verified)?;
                let until = verified.collateral_expires();
                let verdict = verified.verdict().clone();
                let before = own.load_full();
                let booted = before.and_then(|before| before.booted_as(&verified, &identity));
                let known = Arc::new(Own {
                    identity,
                    verdict,
                    until,
                    verified: Instant::now(),
                    collateral_generation: verified.collateral_generation(),
                    evidence: verified,
                    booted: Mutex::new(booted.map(|image| Booted { outcome: Ok(image), at: Instant::now() })),
                });
                own.store(Some(Arc::clone(&known)));
                known
            }
        };
        let Tolerated { told, relaxations } = tolerance.apply(&known.verdict, &known.identity);
        let decision = asked(tolerance.metrics(), policy, policy.decide_own(&told)).await;
        let decision = decision.map_err(OwnDecisionError::Policy)?;
        let decision = settled(decision, async || known.booted(image).await).await;
        let decision = decision.map_err(OwnDecisionError::OsImage)?;
        // Log changes only.
        if decision.is_allowed() && **needed.load() != relaxations {
            tolerance.needed(&relaxations, &known.identity, "this KMS");
            needed.store(Arc::new(relaxations));
        }
        Ok(decision)
    }
}

/// Why there is no decision about this KMS.
enum OwnDecisionError {
    Evidence(OwnEvidenceError),
    Policy(PolicyError),
    OsImage(Unsettled),
}

impl From<OwnEvidenceError> for OwnDecisionError {
    fn from(error: OwnEvidenceError) -> Self {
        Self::Evidence(error)
    }
}
