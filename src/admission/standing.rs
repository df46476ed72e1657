//! Our own standing: this KMS asks policy about itself before it serves anyone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use kms_attest::{
    attester::{Attester, AttesterError},
    binding::ReportData,
    identity::{BootInfo, Registers},
    tcb::TcbVerdict,
    verify::{Binding, Verified, Verifier, VerifyError},
};
use tokio::sync::Semaphore;

use super::{Refusal, Relaxations, TcbTolerance, Tolerated, permit::Standing};
use crate::policy::{Decision, Policy, PolicyError};

/// How often policy is asked about ourselves in the background: a revocation takes effect within it.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long the last answer serves while the back end gives no new one.
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
    Identity(String),
}

/// Asks policy about this KMS and remembers the answer for some seconds.
#[derive(Debug)]
pub struct OwnStanding {
    requirement: Requirement,
    recent: ArcSwapOption<Recent>,
    /// The last question that had no answer.
    unanswered: ArcSwapOption<Unanswered>,
    /// Who may ask.
    turns: Semaphore,
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
    identity: BootInfo,
    verdict: TcbVerdict,
    until: u64,
    verified: Instant,
}

#[derive(Debug)]
struct Recent {
    answer: Result<Standing, String>,
    asked: Instant,
}

/// A question without an answer.
#[derive(Debug)]
struct Unanswered {
    what: &'static str,
    detail: String,
    asked: Instant,
}

impl Unanswered {
    fn refusal(&self) -> Refusal {
        Refusal::StandingUnknown { what: self.what, detail: self.detail.clone() }
    }
}

impl OwnStanding {
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
        }
    }

    /// Our standing by the last answer. Never asks, never waits: [`OwnStanding::keep_fresh`] asks.
    ///
    /// # Errors
    /// [`Refusal::NoStanding`] when we are denied, [`Refusal::StandingUnknown`] when there is no recent answer.
    pub fn current(&self) -> Result<Standing, Refusal> {
        if matches!(self.requirement, Requirement::Waived) {
            return Ok(Standing::granted());
        }
        let recent = self.recent.load();
        match recent.as_ref().filter(|recent| recent.asked.elapsed() < LIFETIME) {
            Some(recent) => recent.answer.clone().map_err(Refusal::NoStanding),
            None => {
                let what = self.unanswered.load().as_ref().map_or(NO_CHECK, |unanswered| unanswered.what);
                Err(Refusal::StandingUnknown { what, detail: "no answer in the last seconds".to_owned() })
            }
        }
    }

    /// Asks for the first time, so that the first callers find an answer; gives up soon.
    pub async fn prepare(&self) {
        let _ = tokio::time::timeout(FIRST_ANSWER, self.fresh()).await;
    }

    /// Our standing as policy sees it at this moment: for what releases keys, and after an operator changed something.
    /// The question is never older than the call; calls that come together share it.
    ///
    /// # Errors
    /// [`Refusal::NoStanding`] when we are denied, [`Refusal::StandingUnknown`] when the back end does not answer or our
    /// evidence cannot be had.
    pub async fn fresh(&self) -> Result<Standing, Refusal> {
        match self.requirement {
            Requirement::Waived => Ok(Standing::granted()),
            Requirement::Enforced { .. } => self.refresh().await,
        }
    }

    /// This KMS as policy is told of it, as far as that is known; `None` also where policy is not asked (`waived`).
    pub fn told_identity(&self) -> Option<BootInfo> {
        let Requirement::Enforced { own, tolerance, .. } = &self.requirement else { return None };
        let known = own.load_full()?;
        Some(tolerance.apply(&known.verdict, &known.identity).shown.into_owned())
    }

    /// Keeps the answer fresh until dropped.
    pub async fn keep_fresh(&self) {
        let mut tick = tokio::time::interval(ASK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told: Option<String> = None;
        loop {
            tick.tick().await;
            let trouble = self.fresh().await.err().map(|refusal| match refusal {
                Refusal::StandingUnknown { what, detail } => format!("{what}: {detail}"),
                other => other.to_string(),
            });
            // A change is news, the same trouble every two seconds is not.
            if trouble != told {
                match &trouble {
                    Some(reason) => tracing::warn!(reason, "this KMS has no standing with its own policy"),
                    None => tracing::info!("this KMS is allowed by its own policy again"),
                }
                told = trouble;
            }
        }
    }

    async fn refresh(&self) -> Result<Standing, Refusal> {
        let called = Instant::now();
        // It is never closed.
        let _turn = self.turns.acquire().await;
        if let Some(outcome) = self.outcome_since(called) {
            return outcome;
        }
        let asked = Instant::now();
        let answer = match self.decide().await {
            Ok(Decision::Allowed { .. }) => Ok(Standing::granted()),
            Ok(Decision::Denied(denial)) => Err(format!("KMS is not allowed: {}", denial.reason)),
            Err(NoAnswer::Evidence(OwnEvidenceError::Verify(error))) if !error.is_unavailable() => {
                Err(format!("{NO_BOOT_INFO}: {error}"))
            }
            // An outage is no answer: the last one serves until it is too old.
            Err(NoAnswer::Evidence(error)) => return Err(self.unanswered(NO_BOOT_INFO, error, asked)),
            Err(NoAnswer::Policy(error)) => return Err(self.unanswered(NO_CHECK, error.detail(), asked)),
        };
        self.newest(Recent { answer, asked }).answer.clone().map_err(Refusal::NoStanding)
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
    fn outcome_since(&self, called: Instant) -> Option<Result<Standing, Refusal>> {
        if let Some(recent) = self.recent.load().as_ref().filter(|recent| recent.asked >= called) {
            return Some(recent.answer.clone().map_err(Refusal::NoStanding));
        }
        let unanswered = self.unanswered.load();
        unanswered.as_ref().filter(|unanswered| unanswered.asked >= called).map(|it| Err(it.refusal()))
    }

    fn unanswered(&self, what: &'static str, detail: impl ToString, asked: Instant) -> Refusal {
        let unanswered = Unanswered { what, detail: detail.to_string(), asked };
        let refusal = unanswered.refusal();
        self.unanswered.store(Some(Arc::new(unanswered)));
        refusal
    }

    async fn decide(&self) -> Result<Decision, NoAnswer> {
        let Requirement::Enforced { attester, verifier, policy, tolerance, own, needed } = &self.requirement
        else {
            return Ok(Decision::Allowed { gateway_app_id: String::new() });
        };
        let known = own.load_full().filter(|own| super::peer::is_current(own.until, own.verified));
        let known = match known {
            Some(known) => known,
            None => {
                let verified = own_evidence(attester, verifier).await?;
                let identity = own_identity(&verified)?;
                let until = verified.collateral_expires();
                let verdict = verified.verdict().clone();
                let known = Arc::new(Own { identity, verdict, until, verified: Instant::now() });
                own.store(Some(Arc::clone(&known)));
                known
            }
        };
        let Tolerated { shown, relaxations } = tolerance.apply(&known.verdict, &known.identity);
        let decision = policy.decide_own(&shown).await.map_err(NoAnswer::Policy)?;
        // Every two seconds the same is no news.
        if matches!(decision, Decision::Allowed { .. }) && **needed.load() != relaxations {
            tolerance.needed(&relaxations, &known.identity, "this KMS");
            needed.store(Arc::new(relaxations));
        }
        Ok(decision)
    }
}

/// What is missing when our evidence is.
const NO_BOOT_INFO: &str = "failed to build local KMS boot info";
/// What is missing when the back end's answer is.
const NO_CHECK: &str = "failed to call KMS auth check: the authorization back end does not answer";

enum NoAnswer {
    Evidence(OwnEvidenceError),
    Policy(PolicyError),
}

impl From<OwnEvidenceError> for NoAnswer {
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
pub fn own_identity(verified: &Verified) -> Result<BootInfo, OwnEvidenceError> {
    verified.boot_info(Registers::RunTime, "").map_err(|error| OwnEvidenceError::Identity(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_to_an_older_question_overwrites_nothing() {
        let standing = OwnStanding::waived();
        let first = Instant::now();
        let second = first + Duration::from_millis(1);
        let allowed = |asked| Recent { answer: Ok(Standing::granted()), asked };
        let denied = |asked| Recent { answer: Err("KMS is not allowed".to_owned()), asked };
        let remembered = || standing.recent.load().as_ref().map(|recent| recent.answer.is_ok());

        assert!(standing.newest(denied(second)).answer.is_err());
        assert!(standing.newest(allowed(first)).answer.is_err(), "who asked first is told of the denial too");
        assert_eq!(remembered(), Some(false));
        assert!(standing.newest(allowed(second + Duration::from_millis(1))).answer.is_ok());
        assert_eq!(remembered(), Some(true));
    }
}
