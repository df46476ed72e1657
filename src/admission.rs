//! Admission: it verifies evidence, asks policy, and makes the permits that secrets are released against.

mod epochs;
mod explainer;
mod foundation;
mod fresh;
mod image_check;
mod judged;
mod live;
mod peer;
mod permit;
mod placed;
mod refusal;
mod sealed;
mod self_authorization;
mod session;
mod stage;
mod tcb;
mod tcb_forecast;
mod timely;
mod vm_config;
mod walk;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use kms_attest::binding::ReportData;
use kms_attest::csr::Csr;
use kms_attest::evidence::Evidence;
use kms_attest::identity::{AppId, DomainName, Registers};
use kms_attest::verify::{Binding, Verified, VerifyError};
use sha2::{Digest as _, Sha256};

pub use self::epochs::{AskedEpochs, ChosenEpochs, GrantedEpochs, RootEpochs, dotted};
pub use self::explainer::Explainer;
pub use self::foundation::Foundation;
pub use self::fresh::{AskedFresh, FreshFault, Freshness, Proved};
pub use self::image_check::{ImageCheck, ImageCheckError, Settled};
use self::live::Live;
pub use self::peer::Peer;
use self::permit::Admitted;
pub use self::permit::{App, Certificate, DecidedBy, Kms, Permit, SelfAuthorization, Shown};
pub use self::placed::{DomainDenial, DomainDenialCode, Placed, would_admit};
pub use self::refusal::{Carrier, EvidenceRefusal, Refusal, RefusalCode, RefusalDetail, Step};
pub use self::sealed::OwnSeal;
pub use self::self_authorization::{
    Missing, OwnEvidenceError, SelfAuthorizer, SelfDenial, SelfDenialCode, SelfRefusal, own_evidence,
    own_identity,
};
pub use self::session::{CHALLENGE_LIFETIME, Challenge, NoRandomness, Session};
pub use self::stage::{StageRule, StageVerdict};
pub use self::tcb::{Relaxations, TcbTolerance, Tolerated};
pub use self::tcb_forecast::{TcbWarning, TcbWatch, WATCHED_FOR};
pub use self::timely::{Decided, MAX_DECISION_AGE, Verification, both};
pub use self::vm_config::Mismatch;
use self::walk::Walk;
pub use self::walk::{Observer, Passed, Until};

use kms_policy::{Policy, Role};

use crate::config::{ReleaseStage, RequireFresh};
use crate::control::Shadow;
use crate::metrics::{Metrics, RequestStage, Upstream};

/// The metric label of a verification.
fn verification_result<T>(outcome: &Result<T, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "verified",
        Err(Refusal::CollateralUnavailable(_) | Refusal::ClockBehind(_)) => "unavailable",
        Err(_) => "refused",
    }
}

/// Counts a request to the policy, if it is a service.
async fn asked<T, E: fmt::Display>(
    metrics: &Metrics,
    policy: &Policy,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let upstream = match policy {
        Policy::AllowAll(_) | Policy::Allowlist(_) | Policy::Bundled(_) => return answer.await,
        Policy::Webhook(_) => Upstream::Webhook,
        Policy::Ethereum(_) => Upstream::Chain,
    };
    metrics.ask(upstream, answer, E::to_string).await
}

/// What a caller has shown, with the key that its evidence is bound to.
fn shown(verified: &Verified, spki: Option<&[u8]>) -> Shown {
    let spki_sha256 = spki.map(|spki| Sha256::digest(spki).into());
    Shown { digest: verified.evidence_digest(), stage: verified.stage(), spki_sha256 }
}

/// Takes the challenge of a request, and returns the report data of fresh evidence for it; `None` if it brings none. Before
/// anything is awaited, so that the age of a challenge is counted from when the request came.
fn answer(
    peer: &Peer,
    client_spki: Option<&[u8]>,
    asked: Option<AskedFresh<'_>>,
) -> Result<Option<ReportData>, FreshFault> {
    let Some(AskedFresh { challenge, service, method, .. }) = asked else { return Ok(None) };
    let (session, spki) = peer.session().zip(client_spki).ok_or(FreshFault::NoSession)?;
    session.answer(&challenge, spki, &format!("{service}.{method}"), Instant::now()).map(Some)
}

/// What a request says beside who sends it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// JSON text that describes the VM; may be empty.
    pub vm_config: &'a str,
    /// The epochs that it names.
    pub epochs: AskedEpochs,
    /// The domain that the caller believes to be in. It decides nothing: the domain follows from the measured app id.
    pub domain: Option<&'a DomainName>,
    /// Its fresh evidence.
    pub fresh: Option<AskedFresh<'a>>,
}

/// The rules of the configuration about releases.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseRules {
    /// Keys are released at this stage of a guest unless the policy names another stage.
    pub stage: ReleaseStage,
    /// Who must bring fresh evidence.
    pub require_fresh: RequireFresh,
}

/// Verifies callers and asks policy about them.
#[derive(Debug)]
pub struct Admission(Arc<Walk>);

impl Admission {
    /// Admission by evidence, domain, freezes, policy and OS image, in this order. `shadow` sees each request, and
    /// keys are released by `rules`, of the root epochs of `ring`.
    pub fn new(
        foundation: Arc<Foundation>,
        shadow: Arc<Shadow>,
        rules: ReleaseRules,
        ring: Arc<dyn RootEpochs>,
    ) -> Self {
        let ReleaseRules { stage: release_stage, require_fresh } = rules;
        Self(Arc::new(Walk { foundation, shadow, release_stage, require_fresh, ring }))
    }

    /// Tells whether this KMS itself is sealed.
    pub fn own_seal(&self) -> OwnSeal {
        OwnSeal::new(self.0.foundation.image.clone())
    }

    /// Explains admission. It cannot make a permit.
    pub fn explainer(&self) -> Explainer {
        Explainer::new(&self.0)
    }

    /// A permit for the keys of the peer's app.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn app(
        &self,
        peer: &Peer,
        asked: Asked<'_>,
        verified: Verification,
    ) -> Result<Permit<App>, Refusal> {
        self.peer(peer, Role::App, App(()), asked, verified).await
    }

    /// A permit for the root keys, if the peer is an allowed KMS.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn kms(
        &self,
        peer: &Peer,
        asked: Asked<'_>,
        verified: Verification,
    ) -> Result<Permit<Kms>, Refusal> {
        self.peer(peer, Role::Kms, Kms(()), asked, verified).await
    }

    /// SHA-256 of the caller's public key, after its evidence was verified. Whether the caller is allowed is not asked.
    ///
    /// # Errors
    /// As [`Admission::kms`], as far as it is about the evidence.
    pub async fn attested_key(&self, peer: &Peer) -> Result<[u8; 32], Refusal> {
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let _: Arc<Verified> = peer.evidence(verifier, metrics).await?;
        let key = peer.spki().ok_or(Refusal::NoAttestation)?;
        Ok(Sha256::digest(key).into())
    }

    async fn peer<R>(
        &self,
        peer: &Peer,
        role: Role,
        grant: R,
        asked: Asked<'_>,
        verification: Verification,
    ) -> Result<Permit<R>, Refusal> {
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let answer = answer(peer, peer.spki(), asked.fresh);
        let verified = peer.evidence(verifier, metrics).await?;
        verification.succeeded();
        let freshness = self.freshness(asked.fresh, answer).await?;
        let admitted = self.admit(&verified, role, asked, &freshness).await?;
        let shown = shown(freshness.latest(&verified), peer.spki());
        let permit = self.permit(admitted, shown, grant)?;
        peer.admit(permit.identity().app_id);
        Ok(permit)
    }

    /// Which public key of an app is meant, for which no caller is judged: the domain of the app, and epochs by what the
    /// policy says of the app without being asked about a caller, by the choice of operators, and by the request.
    ///
    /// # Errors
    /// The reason: the app is in another domain than the request names, the domain is archived, or nobody has keys of these epochs.
    pub fn public_key_of(
        &self,
        app: &AppId,
        asked: AskedEpochs,
        asked_domain: Option<&DomainName>,
    ) -> Result<(DomainName, GrantedEpochs), String> {
        let Walk { foundation, ring, .. } = &*self.0;
        let domain = foundation.domains.of(app);
        let refused =
            placed::expect_asked(&domain, asked_domain).and_then(|()| placed::not_archived(&domain));
        refused.map_err(|denial| denial.reason)?;
        let said = foundation.policy_of(&domain.name).app_epochs(&app.0);
        let chosen = self.0.chosen(app).or(placed::usual_epochs(&domain));
        let granted = epochs::grant_public(asked, said.as_deref(), chosen, &**ring);
        Ok((domain.name.clone(), granted.map_err(|denial| denial.reason)?))
    }

    /// A permit for a certificate of the key of `csr`, which contains evidence bound to that key.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub async fn certificate(
        &self,
        peer: &Peer,
        csr: &Csr,
        asked: Asked<'_>,
        verification: Verification,
    ) -> Result<Permit<Certificate>, Refusal> {
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let answer = answer(peer, Some(&csr.spki), asked.fresh);
        let outcome = {
            let _measured = metrics.stage(RequestStage::Verification);
            verifier.verify(&csr.evidence, Binding::PublicKey(&csr.spki)).await
        };
        let outcome = outcome.map_err(|error| Refusal::unverified(Carrier::CertificateRequest, error));
        metrics.verification(verification_result(&outcome));
        let verified = outcome?;
        verification.succeeded();
        let freshness = self.freshness(asked.fresh, answer).await?;
        let admitted = self.admit(&verified, Role::Certificate, asked, &freshness).await?;
        let latest = freshness.latest(&verified);
        // Policy judges the registers at boot time; the certificate states the current ones.
        let app_info = latest.app_info(Registers::RunTime, asked.vm_config)?;
        self.permit(admitted, shown(latest, Some(&csr.spki)), Certificate { app_info })
    }

    async fn admit(
        &self,
        verified: &Verified,
        role: Role,
        asked: Asked<'_>,
        freshness: &Freshness,
    ) -> Result<Admitted, Refusal> {
        self.0.run(verified, role, asked, freshness, &mut Live { walk: &self.0 }).await
    }

    /// Verifies fresh evidence, whose challenge was taken before.
    ///
    /// # Errors
    /// [`Refusal::CollateralUnavailable`], [`Refusal::ClockBehind`]: nothing is known about it.
    async fn freshness(
        &self,
        asked: Option<AskedFresh<'_>>,
        answer: Result<Option<ReportData>, FreshFault>,
    ) -> Result<Freshness, Refusal> {
        let (asked, expected) = match (asked, answer) {
            (Some(asked), Ok(Some(expected))) => (asked, expected),
            (_, Err(fault)) => return Ok(Freshness::Refused(fault)),
            (None, Ok(_)) | (Some(_), Ok(None)) => return Ok(Freshness::Absent),
        };
        let refused = |bad| Ok(Freshness::Refused(FreshFault::Evidence(Box::new(bad))));
        let evidence = match Evidence::decode(asked.evidence) {
            Ok(evidence) => Arc::new(evidence),
            Err(error) => return refused(EvidenceRefusal::malformed(&error)),
        };
        let Foundation { verifier, metrics, .. } = &*self.0.foundation;
        let outcome = {
            let _measured = metrics.stage(RequestStage::Verification);
            verifier.verify_shared(&evidence, Binding::ReportData(&expected)).await
        };
        let outcome = match outcome {
            Ok(verified) => Ok(Freshness::Verified(Box::new(verified))),
            Err(VerifyError::ReportData | VerifyError::PodPayload) => {
                Ok(Freshness::Refused(FreshFault::NotBound))
            }
            Err(error) => match Refusal::unverified(Carrier::ClientCertificate, error) {
                Refusal::BadEvidence(bad) => refused(bad),
                outage => Err(outage),
            },
        };
        metrics.verification(match &outcome {
            Ok(Freshness::Verified(_)) => "verified",
            Ok(_) => "refused",
            Err(_) => "unavailable",
        });
        outcome
    }

    /// The permit by a new decision of policy, in the same place: a caller whose place has changed gets nothing for it.
    ///
    /// # Errors
    /// [`Refusal`]: policy denies now what it allowed before, or does not respond.
    pub async fn renewed<R>(&self, permit: Permit<R>) -> Result<Permit<R>, Refusal> {
        let (admitted, shown, grant) = permit.into_admitted();
        let Admitted { identity, placed, compared, basis, .. } = &admitted;
        self.0.still_proved(identity, placed, basis.role, admitted.proved)?;
        let judged = self.0.judge(basis, identity, placed, &mut Live { walk: &self.0 }).await?;
        // The registers are those of the same evidence.
        let allowed = judged.proven(compared, identity)?;
        self.permit(Admitted { allowed, ..admitted }, shown, grant)
    }

    /// The permit after all steps have passed, unless an operator has frozen the caller in between.
    fn permit<R>(&self, admitted: Admitted, shown: Shown, grant: R) -> Result<Permit<R>, Refusal> {
        let not_frozen = self.0.not_frozen(&admitted.identity)?;
        let relaxations = &admitted.allowed.relaxations;
        self.0.foundation.tolerance.needed(relaxations, &admitted.identity, "a caller");
        Ok(Permit::new(admitted, shown, grant, not_frozen))
    }
}
