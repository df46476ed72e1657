//! Who may have what: evidence is verified, policy is asked, and a permit is the only way on.

mod explainer;
mod foundation;
mod image_check;
mod live;
mod peer;
mod permit;
mod refusal;
mod self_authorization;
mod stage;
mod tcb;
mod tcb_forecast;
mod timely;
mod vm_config;
mod walk;

use std::sync::Arc;

use kms_attest::csr::Csr;
use kms_attest::identity::{AppInfo, BootInfo, Registers};
use kms_attest::verify::{Binding, Verified};

pub use self::explainer::Explainer;
pub use self::foundation::Foundation;
pub use self::image_check::{ImageCheck, ImageCheckError};
use self::live::Live;
pub use self::peer::Peer;
use self::permit::{Admitted, Basis};
pub use self::permit::{App, Certificate, Kms, Permit, SelfAuthorization, Shown};
pub use self::refusal::{Carrier, EvidenceRefusal, Refusal, RefusalCode, RefusalDetail, Step, check_widths};
pub use self::self_authorization::{
    Missing, OwnEvidenceError, SelfAuthorizer, SelfDenial, SelfDenialCode, SelfRefusal, own_evidence,
    own_identity,
};
pub use self::stage::{StageRule, StageVerdict};
pub use self::tcb::{Relaxations, TcbTolerance, Tolerated};
pub use self::tcb_forecast::{TcbWatch, WATCHED_FOR};
pub use self::timely::{Decided, MAX_DECISION_AGE, Verification, both};
pub use self::vm_config::Mismatch;
use self::walk::Walk;
pub use self::walk::{Observer, Passed, Until};

use crate::config::ReleaseStage;
use crate::control::Shadow;
use crate::policy::Role;

/// The word by which a verification is counted.
fn verification_result<T>(outcome: &Result<T, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "verified",
        Err(Refusal::CollateralUnavailable(_) | Refusal::ClockBehind(_)) => "unavailable",
        Err(_) => "refused",
    }
}

/// Verifies callers and asks policy about them.
#[derive(Debug)]
pub struct Admission(Arc<Walk>);

impl Admission {
    /// Admission by evidence, freezes, policy and OS image, in this order. `shadow` is shown each request, and keys are
    /// released at `release_stage` unless the policy says otherwise.
    pub fn new(
        foundation: Arc<Foundation>,
        shadow: Arc<Shadow>,
        image: ImageCheck,
        release_stage: ReleaseStage,
    ) -> Self {
        Self(Arc::new(Walk { foundation, shadow, image, release_stage }))
    }

    /// Explains the same, without a way to a permit.
    pub fn explainer(&self) -> Explainer {
        Explainer::new(&self.0)
    }

    /// A permit for the keys of the app that the peer runs.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn app(
        &self,
        peer: &Peer,
        vm_config: &str,
        verified: Verification,
    ) -> Result<Permit<App>, Refusal> {
        self.peer(peer, Role::App, vm_config, verified).await
    }

    /// A permit for the root keys: the peer is an allowed KMS.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn kms(
        &self,
        peer: &Peer,
        vm_config: &str,
        verified: Verification,
    ) -> Result<Permit<Kms>, Refusal> {
        self.peer(peer, Role::Kms, vm_config, verified).await
    }

    async fn peer<R>(
        &self,
        peer: &Peer,
        role: Role,
        vm_config: &str,
        verification: Verification,
    ) -> Result<Permit<R>, Refusal> {
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let verified = peer.evidence(verifier, metrics).await?;
        verification.succeeded();
        let permit = self.admit(&verified, role, vm_config).await?;
        peer.admit(*permit.app_id());
        Ok(permit)
    }

    /// A permit for a certificate to the key of `csr`: the evidence inside it is bound to that key.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn certificate(
        &self,
        csr: &Csr,
        vm_config: &str,
        verification: Verification,
    ) -> Result<Permit<Certificate>, Refusal> {
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let outcome = verifier.verify(&csr.evidence, Binding::PublicKey(&csr.spki)).await;
        let outcome = outcome.map_err(|error| Refusal::unverified(Carrier::CertificateRequest, error));
        metrics.verification(verification_result(&outcome));
        let verified = outcome?;
        verification.succeeded();
        self.admit(&verified, Role::Certificate, vm_config).await
    }

    async fn admit<R>(&self, verified: &Verified, role: Role, vm_config: &str) -> Result<Permit<R>, Refusal> {
        let mut live = Live { walk: &self.0, role, stage: verified.stage() };
        let admitted = self.0.run(verified, role, vm_config, &mut live).await?;
        self.permit(admitted)
    }

    /// The permit by what policy says now.
    ///
    /// # Errors
    /// [`Refusal`]: what was allowed before is denied now, or nothing answers.
    pub async fn renewed<R>(&self, permit: Permit<R>) -> Result<Permit<R>, Refusal> {
        let admitted = permit.into_admitted();
        let Basis { role, stage, .. } = admitted.basis;
        let mut live = Live { walk: &self.0, role, stage };
        let allowed = self.0.judge(&admitted.basis, &admitted.identity, &mut live).await?;
        self.permit(Admitted { allowed, ..admitted })
    }

    /// The end of a walk on which nothing was refused, unless an operator has frozen the caller meanwhile.
    fn permit<R>(&self, admitted: Admitted) -> Result<Permit<R>, Refusal> {
        let not_frozen = self.0.not_frozen(&admitted.identity)?;
        let relaxations = &admitted.allowed.relaxations;
        self.0.foundation.tolerance.needed(relaxations, &admitted.identity, "a caller");
        Ok(Permit::new(admitted, not_frozen))
    }
}

/// Who asks in a role.
#[derive(Debug)]
pub struct Identified {
    /// What policy is asked about, with the role's registers.
    pub boot_info: BootInfo,
    /// What a certificate says, with run-time registers.
    pub app_info: AppInfo,
}

/// Who asks in a role, by the VM configuration of the request, which must be that of the evidence.
///
/// # Errors
/// [`Refusal::BadIdentity`], [`Refusal::ConfigMismatch`].
pub fn identified(verified: &Verified, role: Role, vm_config: &str) -> Result<Identified, Refusal> {
    let app_info = verified.app_info(Registers::RunTime, vm_config)?;
    let boot_info = match role.registers() {
        Registers::RunTime => verified.boot_info_of(app_info.clone())?,
        Registers::BootTime => verified.boot_info(Registers::BootTime, vm_config)?,
    };
    check_widths(&boot_info).map_err(Refusal::BadIdentity)?;
    match vm_config::agree(vm_config, &verified.evidence().stack.config) {
        Ok(()) => Ok(Identified { boot_info, app_info }),
        Err(mismatch) => Err(Refusal::ConfigMismatch { mismatch, identity: Box::new(boot_info) }),
    }
}
