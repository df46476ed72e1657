//! Who may have what: evidence is verified, policy is asked, and a permit is the only way on.

pub mod denials;
mod foundation;
mod freeze;
mod image_check;
mod peer;
mod permit;
mod refusal;
mod self_authorization;
mod stage;
mod tcb;
mod tcb_forecast;
mod timely;
mod vm_config;

use std::sync::Arc;
use std::time::Instant;

use kms_attest::{
    csr::Csr,
    identity::{AppId, AppInfo, BootInfo, Registers},
    verify::{Binding, Verified},
};

pub use self::{
    foundation::Foundation,
    freeze::{
        Author, Earlier, Freeze, FreezeError, FreezeFileError, Freezes, MAX_FREEZES, MAX_REASON, NotFrozen,
        RecentApps, Scope, ScopeError, Unfrozen,
    },
    image_check::{ImageCheck, ImageCheckError},
    peer::Peer,
    permit::{App, Certificate, Kms, Permit, SelfAuthorization, Shown},
    refusal::{Carrier, EvidenceRefusal, Refusal, RefusalCode, RefusalDetail, Step, check_widths},
    self_authorization::{
        Missing, OwnEvidenceError, SelfAuthorizer, SelfDenial, SelfDenialCode, SelfRefusal, own_evidence,
        own_identity,
    },
    stage::{StageRule, StageVerdict},
    tcb::{Relaxations, TcbTolerance, Tolerated},
    tcb_forecast::{TcbWatch, WATCHED_FOR},
    timely::{Decided, MAX_DECISION_AGE, Verification, both},
    vm_config::Mismatch,
};
use permit::{Admitted, Allowed, Basis};

use crate::config::ReleaseStage;
use crate::policy::{Decision, Shadow, Subject};

/// What a caller asks to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// An app that wants its keys.
    App,
    /// A replica that wants the root keys.
    Kms,
    /// An app that wants a certificate.
    Certificate,
}

impl Role {
    /// Its name: `app`, `kms` or `certificate`.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Kms => "kms",
            Self::Certificate => "certificate",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::App, Self::Kms, Self::Certificate].into_iter().find(|role| role.name() == name)
    }

    /// The registers that its identity is read from. A certificate needs those at the end of booting, which an app
    /// cannot change later.
    pub fn registers(self) -> Registers {
        match self {
            Self::App | Self::Kms => Registers::RunTime,
            Self::Certificate => Registers::BootTime,
        }
    }

    /// What policy is asked about.
    pub fn subject(self, identity: &BootInfo) -> Subject<'_> {
        match self {
            Self::App | Self::Certificate => Subject::App(identity),
            Self::Kms => Subject::Kms(identity),
        }
    }
}

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
pub struct Admission {
    foundation: Arc<Foundation>,
    /// Evaluates requests without deciding.
    shadow: Arc<Shadow>,
    image: ImageCheck,
    release_stage: ReleaseStage,
}

impl Admission {
    /// Admission by evidence, freezes, policy and OS image, in this order. `shadow` is shown each request, and keys are
    /// released at `release_stage` unless the policy says otherwise.
    pub fn new(
        foundation: Arc<Foundation>,
        shadow: Arc<Shadow>,
        image: ImageCheck,
        release_stage: ReleaseStage,
    ) -> Self {
        Self { foundation, shadow, image, release_stage }
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
        let verified = peer.evidence(&self.foundation.verifier, &self.foundation.metrics).await?;
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
        let outcome = self.foundation.verifier.verify(&csr.evidence, Binding::PublicKey(&csr.spki)).await;
        let outcome = outcome.map_err(|error| Refusal::unverified(Carrier::CertificateRequest, error));
        self.foundation.metrics.verification(verification_result(&outcome));
        let verified = outcome?;
        verification.succeeded();
        self.admit(&verified, Role::Certificate, vm_config).await
    }

    async fn admit<R>(&self, verified: &Verified, role: Role, vm_config: &str) -> Result<Permit<R>, Refusal> {
        let Foundation { tolerance, freezes, .. } = &*self.foundation;
        let Identified { boot_info: identity, app_info } = identified(verified, role, vm_config)?;
        let app_id = AppId::try_from(identity.app_id.as_slice())
            .map_err(|error| Refusal::BadIdentity(error.to_string()))?;
        let shown_evidence = Shown { digest: verified.evidence_digest(), stage: verified.stage() };
        let thawed = |identity: &BootInfo| {
            freezes
                .check(identity)
                .map_err(|frozen| Refusal::Frozen { frozen, identity: Some(Box::new(identity.clone())) })
        };
        // Here, so that what is frozen costs no question; and once more at the end.
        thawed(&identity)?;
        let basis = Basis { verdict: verified.verdict().clone(), role, stage: shown_evidence.stage };
        let allowed = self.decided(&basis, &identity).await?;
        // Only now: a denial costs no download. What takes long here is noticed by the age of the decision.
        if let ImageCheck::Required(images) = &self.image
            && let Err(error) = Box::pin(images.verify(verified, vm_config)).await
        {
            let Allowed { relaxations, .. } = allowed;
            return Err(Refusal::OsImage { error, identity: Box::new(identity), relaxations });
        }
        let not_frozen = thawed(&identity)?;
        tolerance.needed(&allowed.relaxations, &identity, "a caller");
        let shown = shown_evidence;
        Ok(Permit::new(Admitted { identity, app_id, app_info, allowed, basis, shown }, not_frozen))
    }

    /// The permit by what policy says now.
    ///
    /// # Errors
    /// [`Refusal`]: what was allowed before is so no longer, or nobody can tell.
    pub async fn renewed<R>(&self, permit: Permit<R>) -> Result<Permit<R>, Refusal> {
        let admitted = permit.into_admitted();
        let allowed = self.decided(&admitted.basis, &admitted.identity).await?;
        let not_frozen = self.foundation.freezes.check(&admitted.identity).map_err(|frozen| {
            Refusal::Frozen { frozen, identity: Some(Box::new(admitted.identity.clone())) }
        })?;
        self.foundation.tolerance.needed(&allowed.relaxations, &admitted.identity, "a caller");
        Ok(Permit::new(Admitted { allowed, ..admitted }, not_frozen))
    }

    /// What policy says now, and whether keys are released at this stage of the guest.
    async fn decided(&self, basis: &Basis, identity: &BootInfo) -> Result<Allowed, Refusal> {
        let Foundation { policy, tolerance, metrics, .. } = &*self.foundation;
        let Basis { verdict, role, stage } = basis;
        let Tolerated { shown, relaxations } = tolerance.apply(verdict, identity);
        let answer = policy.decide(role.subject(&shown)).await;
        let at = Instant::now();
        let verdict = |by_policy| StageRule::of(by_policy, self.release_stage).judge(*role, *stage);
        self.shadow.observe(role.subject(&shown), answer.as_ref().ok(), |by_policy| {
            matches!(verdict(by_policy), StageVerdict::TooLate(_))
        });
        drop(shown);
        metrics.policy_answer(match &answer {
            Ok(Decision::Allowed { .. }) => "allowed",
            Ok(Decision::Denied(_)) => "denied",
            Err(_) => "unavailable",
        });
        let identity = || Box::new(identity.clone());
        match answer.map_err(Refusal::PolicyUnavailable)? {
            Decision::Denied(denial) => Err(Refusal::Denied { denial, identity: identity(), relaxations }),
            Decision::Allowed { gateway_app_id, release_stage: by_policy } => match verdict(by_policy) {
                StageVerdict::Released(rule) => Ok(Allowed { gateway_app_id, relaxations, rule, at }),
                StageVerdict::TooLate(rule) => {
                    Err(Refusal::AfterBoot { rule, identity: identity(), relaxations })
                }
            },
        }
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
