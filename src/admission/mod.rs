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
use crate::os_image::{OsImageError, OsImages};
use crate::policy::{Decision, Denial, Policy, PolicyError, Subject};

/// Whether the measured registers are compared with the OS image before a permit is given.
#[derive(Debug, Clone)]
pub enum ImageCheck {
    /// `core.image.verify = true`.
    Required(OsImages),
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
    /// The caller is allowed, but is not known to have booted the OS image that it names.
    #[error("Failed to verify os image hash: {error}")]
    OsImage {
        /// Why not.
        #[source]
        error: OsImageError,
        /// Whom policy allowed.
        identity: Box<BootInfo>,
    },
    /// It is not known whether we may serve.
    #[error("KMS self authorization failed: {what}")]
    StandingUnknown {
        /// What is missing.
        what: &'static str,
        /// Why, for the log only.
        detail: String,
    },
    /// Policy says that we may not serve.
    #[error("KMS self authorization failed: {0}")]
    NoStanding(String),
}

/// Policy, the audit log and clients see canonical widths or nothing: no field is as long as a sender likes.
fn check_widths(identity: &BootInfo) -> Result<(), Refusal> {
    for (name, bytes, width) in [
        ("compose_hash", &identity.compose_hash, 32),
        ("instance_id", &identity.instance_id, 20),
        ("os_image_hash", &identity.os_image_hash, 32),
    ] {
        if !bytes.is_empty() && bytes.len() != width {
            let found = bytes.len();
            return Err(Refusal::BadIdentity(format!("{name} must be {width} bytes or empty, got {found}")));
        }
    }
    Ok(())
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
        let permit =
            self.admit(&verified, Registers::RunTime, vm_config, |identity| Subject::App(identity)).await?;
        peer.admit();
        Ok(permit)
    }

    /// A permit for the root keys: the peer is an allowed KMS.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn kms(&self, peer: &Peer, vm_config: &str) -> Result<Permit<Kms>, Refusal> {
        let verified = peer.evidence(&self.verifier, &self.metrics).await?;
        let permit =
            self.admit(&verified, Registers::RunTime, vm_config, |identity| Subject::Kms(identity)).await?;
        peer.admit();
        Ok(permit)
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
        check_widths(&identity)?;
        let answer = self.policy.decide(subject(&identity)).await;
        self.metrics.policy_answer(match &answer {
            Ok(Decision::Allowed { .. }) => "allowed",
            Ok(Decision::Denied(_)) => "denied",
            Err(_) => "unavailable",
        });
        let gateway_app_id = match answer.map_err(Refusal::PolicyUnavailable)? {
            Decision::Denied(denial) => {
                return Err(Refusal::Denied { denial, identity: Box::new(identity) });
            }
            Decision::Allowed { gateway_app_id } => gateway_app_id,
        };
        // Only now: a denial costs no download.
        if let ImageCheck::Required(images) = &self.image
            && let Err(error) = images.verify(verified, vm_config).await
        {
            return Err(Refusal::OsImage { error, identity: Box::new(identity) });
        }
        Ok(Permit::new(identity, app_id, gateway_app_id))
    }
}
