//! The evidence and identity of this KMS, and the OS image that it has booted.

use std::time::{Duration, Instant};

use kms_attest::attester::{Attester, AttesterError};
use kms_attest::binding::ReportData;
use kms_attest::identity::{Identity, Registers};
use kms_attest::tcb::TcbVerdict;
use kms_attest::verify::{Binding, UnidentifiedError, Verified, Verifier, VerifyError};
use kms_policy::NotCompared;
use tokio::sync::Mutex;

use crate::admission::{ImageCheck, sealed};
use crate::os_image::BootedImage;

/// How long a decision about this KMS waits for the comparison with its OS image, which continues without it.
const WAIT_FOR_IMAGE: Duration = Duration::from_secs(5);
/// How long a comparison without success is remembered, so that the image is not requested for each decision.
const IMAGE_MEMORY: Duration = Duration::from_secs(30);

/// Why there is no identity of this KMS.
#[derive(Debug, thiserror::Error)]
pub enum OwnEvidenceError {
    /// The attester returned no evidence.
    #[error("failed to get attestation: {0}")]
    Attester(#[from] AttesterError),
    /// The evidence does not verify.
    #[error("failed to verify attestation: {0}")]
    Verify(#[from] VerifyError),
    /// The evidence contains no valid identity.
    #[error("failed to decode app info: {0}")]
    Identity(#[from] UnidentifiedError),
}

/// The verified identity of this KMS, valid as long as the collateral that it was verified with.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) identity: Identity,
    pub(super) verdict: TcbVerdict,
    pub(super) until: u64,
    pub(super) verified: Instant,
    pub(super) collateral_generation: u64,
    pub(super) evidence: Verified,
    /// The comparison with the OS image, if a decision has depended on it.
    pub(super) booted: Mutex<Option<Booted>>,
}

/// The last comparison with the OS image.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) outcome: Result<BootedImage, NotCompared>,
    pub(super) at: Instant,
}

impl Own {
    /// The comparison of this KMS with its image, if `later` evidence has the same registers and configuration, and shows no
    /// event that may have opened it.
    pub(super) fn booted_as(&self, later: &Verified, identity: &Identity) -> Option<BootedImage> {
        let config = |verified: &Verified| verified.evidence().stack.config.clone();
        // `mr_system` covers MRTD and RTMR0 to 2.
        let is_same = self.identity.mr_system == identity.mr_system
            && config(&self.evidence) == config(later)
            && sealed::opened_by(&later.evidence().stack.runtime_events).is_none();
        let known = self.booted.try_lock().ok()?;
        known.as_ref().filter(|_| is_same)?.outcome.clone().ok()
    }

    /// The image that this KMS has booted: compared once, and after a failure again and again.
    pub(super) async fn booted(&self, image: &ImageCheck) -> Result<BootedImage, NotCompared> {
        let compared = async {
            let mut known = self.booted.lock().await;
            if let Some(Booted { outcome, at }) = &*known
                && (outcome.is_ok() || at.elapsed() < IMAGE_MEMORY)
            {
                return outcome.clone();
            }
            let outcome = Box::pin(image.booted(&self.evidence)).await;
            *known = Some(Booted { outcome: outcome.clone(), at: Instant::now() });
            outcome
        };
        tokio::time::timeout(WAIT_FOR_IMAGE, compared).await.unwrap_or_else(|_| {
            Err(NotCompared::Unavailable("it is still being fetched or measured".to_owned()))
        })
    }
}

/// Verified evidence of this KMS over 64 zero bytes.
///
/// # Errors
/// [`OwnEvidenceError`].
pub async fn own_evidence(attester: &Attester, verifier: &Verifier) -> Result<Verified, OwnEvidenceError> {
    let zero = ReportData::ZERO;
    let evidence = attester.attest(zero).await?;
    Ok(verifier.verify(&evidence, Binding::ReportData(&zero)).await?)
}

/// The identity of this KMS, or of another one that has shown its evidence: with the registers at run time
/// and the VM configuration in the evidence.
///
/// # Errors
/// [`OwnEvidenceError::Identity`].
pub fn own_identity(verified: &Verified) -> Result<Identity, OwnEvidenceError> {
    Ok(verified.identity(Registers::RunTime, "")?)
}
