//! Who may have what: evidence is verified, policy is asked, and a permit is the only way on.

mod peer;
mod permit;
mod standing;

use std::sync::Arc;

use kms_attest::{
    csr::Csr,
    identity::{AppId, BootInfo, Registers},
    verify::{Binding, Verified, Verifier, VerifyError},
};

pub use self::{
    peer::Peer,
    permit::{App, Certificate, Kms, Permit, Standing},
    standing::{OwnEvidenceError, OwnStanding, own_evidence, own_identity},
};
use crate::metrics::Metrics;
use crate::policy::{Decision, Denial, Policy, PolicyError, Subject};

/// Whether the measured registers are compared with the OS image before a permit is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCheck {
    /// `core.image.verify = true`. This version cannot do it yet, so no permit is given.
    Required,
    /// `core.image.verify = false`: policy decides on the image hash that the caller names.
    Waived,
}

/// Why a caller gets no permit.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No client certificate, or none with an attestation.
    #[error("No attestation provided")]
    NoAttestation,
    /// The evidence does not decode, does not verify, or is not bound to the caller's key.
    #[error("invalid quote: {0}")]
    BadEvidence(String),
    /// Intel's collateral could not be had: nothing is known about the evidence.
    #[error("the collateral service does not answer, evidence cannot be verified now")]
    CollateralUnavailable(#[source] VerifyError),
    /// The evidence verifies, but what it says is not the identity of an app.
    #[error("{0}")]
    BadIdentity(String),
    /// Policy said no.
    #[error("Boot denied: {}", .denial.reason)]
    Denied {
        /// What policy said.
        denial: Denial,
        /// Whom it said it about.
        identity: Box<BootInfo>,
    },
    /// The authorization back end did not answer, so nobody is allowed.
    #[error("the authorization back end does not answer")]
    PolicyUnavailable(#[source] PolicyError),
    /// The OS image would have to be verified first.
    #[error(
        "Failed to verify os image hash: this KMS cannot verify OS images; \
         its operator can waive the check with core.image.verify = false"
    )]
    ImageNotVerified,
    /// Our own evidence or permission is missing.
    #[error("KMS self authorization failed: {0}")]
    NoStanding(String),
}

/// The word by which a verification is counted.
fn verification_result<T>(outcome: &Result<T, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "verified",
        Err(Refusal::CollateralUnavailable(_)) => "unavailable",
        Err(_) => "refused",
    }
}

/// Verifies callers and asks policy about them.
#[derive(Debug)]
pub struct Admission {
    verifier: Arc<Verifier>,
    policy: Arc<Policy>,
    image: ImageCheck,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// Admission by `verifier`, then `policy`, then `image`; outcomes are counted.
    pub fn new(
        verifier: Arc<Verifier>,
        policy: Arc<Policy>,
        image: ImageCheck,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { verifier, policy, image, metrics }
    }

    /// A permit for the keys of the app that the peer runs.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn app(&self, peer: &Peer, vm_config: &str) -> Result<Permit<App>, Refusal> {
        let verified = peer.evidence(&self.verifier, &self.metrics).await?;
        self.admit(&verified, Registers::RunTime, vm_config, |identity| Subject::App(identity)).await
    }

    /// A permit for the root keys: the peer is an allowed KMS.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn kms(&self, peer: &Peer, vm_config: &str) -> Result<Permit<Kms>, Refusal> {
        let verified = peer.evidence(&self.verifier, &self.metrics).await?;
        self.admit(&verified, Registers::RunTime, vm_config, |identity| Subject::Kms(identity)).await
    }

    /// A permit for a certificate to the key of `csr`: the evidence inside it is bound to that key. The registers are
    /// those at the end of booting, which an app cannot change later.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn certificate(&self, csr: &Csr, vm_config: &str) -> Result<Permit<Certificate>, Refusal> {
        let outcome = self.verifier.verify(&csr.evidence, Binding::PublicKey(&csr.spki)).await;
        let outcome = outcome.map_err(Refusal::from);
        self.metrics.verification(verification_result(&outcome));
        let verified = outcome?;
        self.admit(&verified, Registers::BootTime, vm_config, |identity| Subject::App(identity)).await
    }

    async fn admit<R>(
        &self,
        verified: &Verified,
        registers: Registers,
        vm_config: &str,
        subject: impl FnOnce(&BootInfo) -> Subject<'_>,
    ) -> Result<Permit<R>, Refusal> {
        let identity = verified
            .boot_info(registers, vm_config)
            .map_err(|error| Refusal::BadIdentity(error.to_string()))?;
        let app_id = AppId::try_from(identity.app_id.as_slice())
            .map_err(|error| Refusal::BadIdentity(error.to_string()))?;
        let answer = self.policy.decide(subject(&identity)).await;
        self.metrics.policy_answer(match &answer {
            Ok(Decision::Allowed { .. }) => "allowed",
            Ok(Decision::Denied(_)) => "denied",
            Err(_) => "unavailable",
        });
        match answer.map_err(Refusal::PolicyUnavailable)? {
            Decision::Denied(denial) => Err(Refusal::Denied { denial, identity: Box::new(identity) }),
            Decision::Allowed { .. } if self.image == ImageCheck::Required => Err(Refusal::ImageNotVerified),
            Decision::Allowed { gateway_app_id } => Ok(Permit::new(identity, app_id, gateway_app_id)),
        }
    }
}
