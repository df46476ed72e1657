//! Our self-authorization: this KMS asks policy about itself before it serves anyone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use kms_attest::attester::{Attester, AttesterError};
use kms_attest::binding::ReportData;
use kms_attest::identity::{BootInfo, Identity, Registers};
use kms_attest::tcb::TcbVerdict;
use kms_attest::verify::{Binding, UnidentifiedError, Verified, Verifier, VerifyError};
use tokio::sync::{Notify, Semaphore, watch};

use super::permit::SelfAuthorization;
use super::{Relaxations, TcbTolerance, Tolerated};
use crate::policy::{Decision, Denial, DenialCode, Policy, PolicyError};

/// How often policy is asked about ourselves in the background: after a revocation, methods that anyone may call go on
/// answering for at most this long and the time of one question.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The same where a chain decides and nobody asks us anything: its nodes count requests.
const ASK_CHAIN_EVERY: Duration = Duration::from_secs(2);
/// Where a chain decides, a caller that finds an answer of this age has the next question asked, without waiting.
const ASK_CHAIN_FROM: Duration = Duration::from_millis(200);
/// One that finds an answer of this age waits for the next one.
const WAIT_FROM: Duration = Duration::from_millis(400);
/// And for how long: then the last answer serves, as while the backend is silent.
const WAIT_FOR: Duration = Duration::from_millis(400);
/// How long the last answer serves while the backend gives no new one.
const LIFETIME: Duration = Duration::from_secs(15);
/// Questions about ourselves at a time: few requests never wait for one another, many share answers.
const AT_A_TIME: usize = 8;
/// How long the first question may hold up the start of the KMS phase.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Why our own evidence could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OwnEvidenceError {
    /// The attester gave none.
    #[error("failed to get attestation: {0}")]
    Attester(#[from] AttesterError),
    /// It does not verify.
    #[error("failed to verify attestation: {0}")]
    Verify(#[from] VerifyError),
    /// It says nothing usable.
    #[error("failed to decode app info: {0}")]
    Identity(#[from] UnidentifiedError),
}

/// Asks policy about this KMS and remembers the answer for some seconds.
#[derive(Debug)]
pub struct SelfAuthorizer {
    requirement: Requirement,
    recent: ArcSwapOption<Recent>,
    /// The last question that had no answer.
    unanswered: ArcSwapOption<Outage>,
    /// Who may ask.
    turns: Semaphore,
    /// Wakes [`SelfAuthorizer::keep_fresh`]: callers of open methods do not ask themselves, however many they are.
    wanted: Notify,
    /// A question of [`SelfAuthorizer::keep_fresh`] has ended.
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
        own: ArcSwapOption<Own>,
        /// What we needed when that was last said.
        needed: ArcSwap<Relaxations>,
    },
}

/// What we are, for as long as the collateral that vouched for it lasts.
#[derive(Debug)]
struct Own {
    identity: Identity,
    verdict: TcbVerdict,
    until: u64,
    verified: Instant,
    collateral_generation: u64,
}

#[derive(Debug)]
struct Recent {
    answer: Result<SelfAuthorization, SelfDenial>,
    asked: Instant,
}

/// Why this KMS itself may not serve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SelfRefusal {
    /// Something says no.
    #[error("{}", .0.reason())]
    Denied(SelfDenial),
    /// It is not known whether it may.
    #[error("{}", missing.words())]
    Unknown {
        /// What does not answer.
        missing: Missing,
        /// Why, for the log only.
        detail: String,
    },
}

/// What policy, or the check of our own evidence, has against this KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfDenial {
    /// For metrics and machines.
    pub code: SelfDenialCode,
    /// In the words of the policy or of the check.
    pub cause: String,
    /// For operators: what would have been right.
    pub expected: Option<String>,
    /// For operators: what was found.
    pub actual: Option<String>,
}

/// What is wrong with this KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SelfDenialCode {
    /// Policy denies it.
    NotAllowed,
    /// The allowlist is missing or invalid, so everything is denied.
    AllowlistUnusable,
    /// Its own evidence does not verify.
    EvidenceRefused,
}

impl SelfDenialCode {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "kms_not_allowed",
            Self::AllowlistUnusable => DenialCode::AllowlistUnusable.name(),
            Self::EvidenceRefused => "own_evidence_refused",
        }
    }
}

impl From<DenialCode> for SelfDenialCode {
    fn from(code: DenialCode) -> Self {
        match code {
            DenialCode::AllowlistUnusable => Self::AllowlistUnusable,
            DenialCode::TcbStatus
            | DenialCode::Advisory
            | DenialCode::OsImage
            | DenialCode::KmsMeasurement
            | DenialCode::Device
            | DenialCode::AppNotRegistered
            | DenialCode::ComposeHash
            | DenialCode::AppNotDeployed
            | DenialCode::InvalidRequest
            | DenialCode::GuestHasBooted
            | DenialCode::Backend => Self::NotAllowed,
        }
    }
}

impl SelfDenial {
    fn denied(denial: Denial) -> Self {
        let Denial { code, reason, expected, actual } = denial;
        Self { code: code.into(), cause: reason, expected, actual }
    }

    fn unproven(error: &VerifyError) -> Self {
        let code = SelfDenialCode::EvidenceRefused;
        Self { code, cause: error.to_string(), expected: None, actual: None }
    }

    /// What callers are told.
    pub fn reason(&self) -> String {
        let what = match self.code {
            SelfDenialCode::NotAllowed | SelfDenialCode::AllowlistUnusable => "KMS is not allowed",
            SelfDenialCode::EvidenceRefused => NO_BOOT_INFO,
        };
        format!("{what}: {}", self.cause)
    }
}

/// What keeps it unknown whether this KMS may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The policy does not answer.
    Policy,
    /// The attester gives no usable evidence.
    Evidence,
    /// There is no collateral to verify our evidence with.
    Collateral,
    /// Our clock is behind what is known to be past.
    Clock,
}

impl Missing {
    fn of(error: &OwnEvidenceError) -> Self {
        match error {
            OwnEvidenceError::Verify(VerifyError::Clock(_)) => Self::Clock,
            OwnEvidenceError::Verify(_) => Self::Collateral,
            OwnEvidenceError::Attester(_) | OwnEvidenceError::Identity(_) => Self::Evidence,
        }
    }

    /// In the peer's words.
    fn words(self) -> &'static str {
        match self {
            Self::Policy => NO_CHECK,
            Self::Evidence | Self::Collateral | Self::Clock => NO_BOOT_INFO,
        }
    }
}

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
    /// No question is asked: `core.enforce_self_authorization = false`.
    pub fn waived() -> Self {
        Self::with(Requirement::Waived)
    }

    /// Policy is asked about the evidence that `attester` gives of this KMS.
    pub fn enforced(
        attester: Arc<Attester>,
        verifier: Arc<Verifier>,
        policy: Arc<Policy>,
        tolerance: Arc<TcbTolerance>,
    ) -> Self {
        Self::with(Requirement::Enforced {
            attester,
            verifier,
            policy,
            tolerance,
            own: ArcSwapOption::empty(),
            needed: ArcSwap::default(),
        })
    }

    fn with(requirement: Requirement) -> Self {
        Self {
            requirement,
            recent: ArcSwapOption::empty(),
            unanswered: ArcSwapOption::empty(),
            turns: Semaphore::new(AT_A_TIME),
            wanted: Notify::new(),
            ended: watch::Sender::new(()),
        }
    }

    /// Our self-authorization by the last answer. Never asks, never waits: [`SelfAuthorizer::keep_fresh`] asks.
    ///
    /// # Errors
    /// [`SelfRefusal::Denied`] when we are denied, [`SelfRefusal::Unknown`] when there is no recent answer.
    pub fn current(&self) -> Result<SelfAuthorization, SelfRefusal> {
        if matches!(self.requirement, Requirement::Waived) {
            return Ok(SelfAuthorization::granted());
        }
        let recent = self.recent.load();
        match recent.as_ref().filter(|recent| recent.asked.elapsed() < LIFETIME) {
            Some(recent) => recent.answer.clone().map_err(SelfRefusal::Denied),
            None => Err(self.no_recent_answer()),
        }
    }

    /// As [`SelfAuthorizer::current`], for methods that anyone may call. Where a chain decides, nobody asks it twice a second
    /// for nothing: whoever comes first after a while has it asked, and waits for that for a moment.
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

    /// How long ago the last question was asked that has ended.
    fn age(&self) -> Duration {
        let (recent, unanswered) = (self.recent.load(), self.unanswered.load());
        let asked = [recent.as_ref().map(|it| it.asked), unanswered.as_ref().map(|it| it.began)];
        asked.into_iter().flatten().max().map_or(Duration::MAX, |asked| asked.elapsed())
    }

    /// What keeps us from releasing keys by the last question that has ended, whether it was answered or not. Never asks,
    /// never waits.
    ///
    /// # Errors
    /// As [`SelfAuthorizer::current`], which goes on believing an answer while later questions have none.
    pub fn last_outcome(&self) -> Result<(), SelfRefusal> {
        if matches!(self.requirement, Requirement::Waived) {
            return Ok(());
        }
        let (recent, unanswered) = (self.recent.load(), self.unanswered.load());
        match (recent.as_ref(), unanswered.as_ref()) {
            (Some(recent), Some(unanswered)) if unanswered.began > recent.asked => Err(unanswered.refusal()),
            (Some(recent), _) if recent.asked.elapsed() < LIFETIME => {
                recent.answer.clone().map(|_| ()).map_err(SelfRefusal::Denied)
            }
            (None, Some(unanswered)) => Err(unanswered.refusal()),
            _ => Err(self.no_recent_answer()),
        }
    }

    /// Whether policy is asked about this KMS at all.
    pub fn is_enforced(&self) -> bool {
        matches!(self.requirement, Requirement::Enforced { .. })
    }

    fn no_recent_answer(&self) -> SelfRefusal {
        let missing =
            self.unanswered.load().as_ref().map_or(Missing::Policy, |unanswered| unanswered.missing);
        SelfRefusal::Unknown { missing, detail: "no answer in the last seconds".to_owned() }
    }

    /// Asks for the first time, so that the first callers find an answer; gives up soon.
    pub async fn prepare(&self) {
        let _ = tokio::time::timeout(FIRST_ANSWER, self.fresh()).await;
    }

    /// Our self-authorization as policy sees it at this moment: for what releases keys, and after an operator changed something.
    /// The question is never older than the call; calls that come together share it.
    ///
    /// # Errors
    /// [`SelfRefusal::Denied`] when we are denied, [`SelfRefusal::Unknown`] when the backend does not answer or our
    /// evidence cannot be had.
    pub async fn fresh(&self) -> Result<SelfAuthorization, SelfRefusal> {
        match self.requirement {
            Requirement::Waived => Ok(SelfAuthorization::granted()),
            Requirement::Enforced { .. } => self.refresh().await,
        }
    }

    /// This KMS as policy is told of it, as far as that is known; `None` also where policy is not asked (`waived`).
    pub fn told_identity(&self) -> Option<BootInfo> {
        let Requirement::Enforced { own, tolerance, .. } = &self.requirement else { return None };
        let known = own.load_full()?;
        Some(tolerance.apply(&known.verdict, &known.identity).told)
    }

    /// Keeps the answer fresh until dropped.
    pub async fn keep_fresh(&self) {
        let mut tick = tokio::time::interval(self.ask_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told: Option<String> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.wanted.notified() => tick.reset(),
            }
            let trouble = self.fresh().await.err().map(|refusal| match refusal {
                SelfRefusal::Unknown { missing, detail } => format!("{}: {detail}", missing.words()),
                denied @ SelfRefusal::Denied(_) => format!("KMS self authorization failed: {denied}"),
            });
            // A change is news, the same trouble again and again is not.
            if trouble != told {
                match &trouble {
                    Some(reason) => tracing::warn!(reason, "policy does not allow this KMS itself"),
                    None => tracing::info!("this KMS is allowed by its own policy again"),
                }
                told = trouble;
            }
            self.ended.send_replace(());
        }
    }

    fn ask_every(&self) -> Duration {
        match &self.requirement {
            Requirement::Waived => ASK_EVERY,
            Requirement::Enforced { policy, .. } => match **policy {
                Policy::Ethereum(_) => ASK_CHAIN_EVERY,
                Policy::AllowAll(_) | Policy::Allowlist(_) | Policy::Webhook(_) => ASK_EVERY,
            },
        }
    }

    async fn refresh(&self) -> Result<SelfAuthorization, SelfRefusal> {
        let called = Instant::now();
        // It is never closed.
        let _turn = self.turns.acquire().await;
        if let Some(outcome) = self.outcome_since(called) {
            return outcome;
        }
        let asked = Instant::now();
        let answer = match self.decide().await {
            Ok(Decision::Allowed { .. }) => Ok(SelfAuthorization::granted()),
            Ok(Decision::Denied(denial)) => Err(SelfDenial::denied(denial)),
            Err(OwnDecisionError::Evidence(OwnEvidenceError::Verify(error))) if !error.is_unavailable() => {
                Err(SelfDenial::unproven(&error))
            }
            // An outage is no answer: the last one serves until it is too old.
            Err(OwnDecisionError::Evidence(error)) => {
                return Err(self.unanswered(Missing::of(&error), error, asked));
            }
            Err(OwnDecisionError::Policy(error)) => {
                return Err(self.unanswered(Missing::Policy, error.detail(), asked));
            }
        };
        self.newest(Recent { answer, asked }).answer.clone().map_err(SelfRefusal::Denied)
    }

    /// Remembers an answer and gives it back, unless there is one to a later question: then that one stays and counts,
    /// for a slow answer tells what was, not what is.
    fn newest(&self, recent: Recent) -> Arc<Recent> {
        let recent = Arc::new(recent);
        let before = self.recent.rcu(|known| match known {
            Some(known) if known.asked > recent.asked => Some(Arc::clone(known)),
            _ => Some(Arc::clone(&recent)),
        });
        before.filter(|known| known.asked > recent.asked).unwrap_or(recent)
    }

    /// How a question ended that was asked after `called`, if one was and has.
    fn outcome_since(&self, called: Instant) -> Option<Result<SelfAuthorization, SelfRefusal>> {
        if let Some(recent) = self.recent.load().as_ref().filter(|recent| recent.asked >= called) {
            return Some(recent.answer.clone().map_err(SelfRefusal::Denied));
        }
        let unanswered = self.unanswered.load();
        unanswered.as_ref().filter(|unanswered| unanswered.began >= called).map(|it| Err(it.refusal()))
    }

    fn unanswered(&self, missing: Missing, detail: impl ToString, asked: Instant) -> SelfRefusal {
        let unanswered = Outage { missing, detail: detail.to_string(), began: asked };
        let refusal = unanswered.refusal();
        self.unanswered.store(Some(Arc::new(unanswered)));
        refusal
    }

    async fn decide(&self) -> Result<Decision, OwnDecisionError> {
        let Requirement::Enforced { attester, verifier, policy, tolerance, own, needed } = &self.requirement
        else {
            return Ok(Decision::Allowed { gateway_app_id: String::new(), release_stage: None });
        };
        // Also of what is known: a clock that was set back would keep it valid.
        verifier.cache().clock().check().map_err(|behind| OwnEvidenceError::Verify(behind.into()))?;
        let known = own.load_full().filter(|own| {
            super::peer::is_current(own.until, own.verified)
                && own.collateral_generation == verifier.cache().generation()
        });
        let known = match known {
            Some(known) => known,
            None => {
                let verified = Box::pin(own_evidence(attester, verifier)).await?;
                let identity = own_identity(&verified)?;
                let until = verified.collateral_expires();
                let verdict = verified.verdict().clone();
                let collateral_generation = verified.collateral_generation();
                let verified = Instant::now();
                let known = Arc::new(Own { identity, verdict, until, verified, collateral_generation });
                own.store(Some(Arc::clone(&known)));
                known
            }
        };
        let Tolerated { told, relaxations } = tolerance.apply(&known.verdict, &known.identity);
        let decision = policy.decide_own(&told).await.map_err(OwnDecisionError::Policy)?;
        // The same again is no news.
        if matches!(decision, Decision::Allowed { .. }) && **needed.load() != relaxations {
            tolerance.needed(&relaxations, &known.identity, "this KMS");
            needed.store(Arc::new(relaxations));
        }
        Ok(decision)
    }
}

/// What is missing when our evidence is.
const NO_BOOT_INFO: &str = "failed to build local KMS boot info";
/// What is missing when the backend's answer is.
const NO_CHECK: &str = "failed to call KMS auth check: the authorization backend does not answer";

/// Why policy decided nothing about this KMS.
enum OwnDecisionError {
    Evidence(OwnEvidenceError),
    Policy(PolicyError),
}

impl From<OwnEvidenceError> for OwnDecisionError {
    fn from(error: OwnEvidenceError) -> Self {
        Self::Evidence(error)
    }
}

/// Evidence of this KMS over 64 zero bytes, verified like anyone's.
///
/// # Errors
/// [`OwnEvidenceError`].
pub async fn own_evidence(attester: &Attester, verifier: &Verifier) -> Result<Verified, OwnEvidenceError> {
    let zero = ReportData::ZERO;
    let evidence = attester.attest(zero).await?;
    Ok(verifier.verify(&evidence, Binding::ReportData(&zero)).await?)
}

/// What our evidence says: run-time registers, the embedded VM configuration.
///
/// # Errors
/// [`OwnEvidenceError::Identity`].
pub fn own_identity(verified: &Verified) -> Result<Identity, OwnEvidenceError> {
    Ok(verified.identity(Registers::RunTime, "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_to_an_older_question_overwrites_nothing() {
        let self_authorization = SelfAuthorizer::waived();
        let first = Instant::now();
        let second = first + Duration::from_millis(1);
        let allowed = |asked| Recent { answer: Ok(SelfAuthorization::granted()), asked };
        let self_denial = || SelfDenial {
            code: SelfDenialCode::NotAllowed,
            cause: "closed".to_owned(),
            expected: None,
            actual: None,
        };
        let denied = |asked| Recent { answer: Err(self_denial()), asked };
        let remembered = || self_authorization.recent.load().as_ref().map(|recent| recent.answer.is_ok());

        assert!(self_authorization.newest(denied(second)).answer.is_err());
        assert!(
            self_authorization.newest(allowed(first)).answer.is_err(),
            "who asked first is told of the denial too"
        );
        assert_eq!(remembered(), Some(false));
        assert!(self_authorization.newest(allowed(second + Duration::from_millis(1))).answer.is_ok());
        assert_eq!(remembered(), Some(true));
    }
}
