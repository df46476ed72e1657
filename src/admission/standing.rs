//! Our own standing: this KMS asks policy about itself before it serves anyone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use kms_attest::{
    attester::{Attester, AttesterError},
    binding::ReportData,
    identity::{BootInfo, Registers},
    verify::{Binding, Verified, Verifier, VerifyError},
};
use tokio::sync::Mutex;

use super::{Refusal, permit::Standing};
use crate::policy::{Decision, Policy, PolicyError, Subject};

/// How long an answer about ourselves serves before policy is asked again. A background task asks in half of it, so
/// that no request waits; a revocation takes effect within it.
const LIFETIME: Duration = Duration::from_secs(4);

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
    asking: Mutex<()>,
}

#[derive(Debug)]
enum Requirement {
    /// `core.enforce_self_authorization = false`.
    Waived,
    Enforced {
        attester: Arc<Attester>,
        verifier: Arc<Verifier>,
        policy: Arc<Policy>,
        own: ArcSwapOption<Own>,
    },
}

/// What we are, for as long as the collateral that vouched for it lasts.
#[derive(Debug)]
struct Own {
    identity: BootInfo,
    until: u64,
}

#[derive(Debug)]
struct Recent {
    answer: Result<Standing, String>,
    asked: Instant,
}

impl OwnStanding {
    /// No question is asked: `core.enforce_self_authorization = false`.
    pub fn waived() -> Self {
        Self::with(Requirement::Waived)
    }

    /// Policy is asked about the evidence that `attester` gives of this KMS.
    pub fn enforced(attester: Arc<Attester>, verifier: Arc<Verifier>, policy: Arc<Policy>) -> Self {
        Self::with(Requirement::Enforced { attester, verifier, policy, own: ArcSwapOption::empty() })
    }

    fn with(requirement: Requirement) -> Self {
        Self { requirement, recent: ArcSwapOption::empty(), asking: Mutex::new(()) }
    }

    /// Our standing, from the answer of the last seconds or by asking now.
    ///
    /// # Errors
    /// [`Refusal::NoStanding`] when we are denied or our evidence cannot be had, [`Refusal::PolicyUnavailable`].
    pub async fn current(&self) -> Result<Standing, Refusal> {
        match self.recent() {
            Some(answer) => answer,
            None => self.ask().await,
        }
    }

    /// Our standing as policy sees it at this moment: for what releases keys, and after an operator changed something.
    ///
    /// # Errors
    /// As [`OwnStanding::current`].
    pub async fn fresh(&self) -> Result<Standing, Refusal> {
        match self.requirement {
            Requirement::Waived => Ok(Standing::granted()),
            Requirement::Enforced { .. } => self.refresh().await,
        }
    }

    /// Keeps the answer fresh until dropped.
    pub async fn keep_fresh(&self) {
        let mut tick = tokio::time::interval(LIFETIME / 2);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(refusal) = self.refresh().await {
                tracing::warn!(reason = %refusal, "this KMS has no standing with its own policy");
            }
        }
    }

    fn recent(&self) -> Option<Result<Standing, Refusal>> {
        if matches!(self.requirement, Requirement::Waived) {
            return Some(Ok(Standing::granted()));
        }
        let recent = self.recent.load();
        let recent = recent.as_ref().filter(|recent| recent.asked.elapsed() < LIFETIME)?;
        Some(recent.answer.clone().map_err(Refusal::NoStanding))
    }

    async fn ask(&self) -> Result<Standing, Refusal> {
        let _one_at_a_time = self.asking.lock().await;
        match self.recent() {
            Some(answer) => answer,
            None => self.refresh().await,
        }
    }

    async fn refresh(&self) -> Result<Standing, Refusal> {
        let asked = Instant::now();
        let answer = match self.decide().await {
            Ok(Decision::Allowed { .. }) => Ok(Standing::granted()),
            Ok(Decision::Denied(denial)) => Err(format!("KMS is not allowed: {}", denial.reason)),
            Err(NoAnswer::Evidence(error)) => {
                tracing::warn!(%error, "own evidence is not to be had");
                Err("failed to build local KMS boot info".to_owned())
            }
            // An outage is no answer: the last one serves until it is too old.
            Err(NoAnswer::Policy(error)) => return Err(Refusal::PolicyUnavailable(error)),
        };
        self.recent.store(Some(Arc::new(Recent { answer: answer.clone(), asked })));
        answer.map_err(Refusal::NoStanding)
    }

    async fn decide(&self) -> Result<Decision, NoAnswer> {
        let Requirement::Enforced { attester, verifier, policy, own } = &self.requirement else {
            return Ok(Decision::Allowed { gateway_app_id: String::new() });
        };
        let known = own.load_full().filter(|own| super::peer::unix_now() < own.until);
        let known = match known {
            Some(known) => known,
            None => {
                let verified = own_evidence(attester, verifier).await?;
                let identity = own_identity(&verified)?;
                let known = Arc::new(Own { identity, until: verified.collateral_expires() });
                own.store(Some(Arc::clone(&known)));
                known
            }
        };
        policy.decide(Subject::Kms(&known.identity)).await.map_err(NoAnswer::Policy)
    }
}

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
