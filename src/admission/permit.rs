//! Permits: proofs that a caller was verified and allowed. Only `admission` makes them, and secrets require
//! them.

use std::time::Instant;

use kms_attest::identity::{AppInfo, DomainName, Identity};
use kms_attest::measurement::Stage;
use kms_attest::tcb::TcbVerdict;
use kms_policy::Role;

use super::epochs::unreadable;
use super::judged::Compared;
use super::{AskedEpochs, Decided, GrantedEpochs, Placed, Proved, Refusal, Relaxations, StageRule};
use crate::control::NotFrozen;
use crate::keys::epoch::KeyEpochs;
use crate::keys::keyring::Unreadable;

/// The role of an app that may have its keys.
#[derive(Debug)]
pub struct App(pub(super) ());

/// The role of a replica that may have the root keys.
#[derive(Debug)]
pub struct Kms(pub(super) ());

/// The role of an app that may have a certificate.
#[derive(Debug)]
pub struct Certificate {
    /// What the certificate states about the app, with the registers at run time.
    pub(super) app_info: AppInfo,
}

/// The digest of the evidence by which a caller is judged, for records, and the guest's stage when it was taken: of its fresh
/// evidence, if it brought any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of the evidence.
    pub digest: [u8; 32],
    /// Before or after `system-ready`.
    pub stage: Stage,
    /// SHA-256 of the SubjectPublicKeyInfo that the evidence is bound to: of the client certificate, or of the
    /// certificate request.
    pub spki_sha256: Option<[u8; 32]>,
}

/// The policy that decided about a caller, for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedBy {
    /// Its kind: `allowlist`, `webhook`, `ethereum` or `dev`.
    pub policy: &'static str,
    /// The digest of the rules that decided, as in [`kms_policy::Ruling`].
    pub digest: Option<[u8; 32]>,
}

/// A caller that passed all steps.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) identity: Identity,
    pub(super) placed: Placed,
    pub(super) proved: Proved,
    pub(super) allowed: Allowed,
    /// What is known of its OS image, for a later decision.
    pub(super) compared: Compared,
    pub(super) basis: Basis,
}

/// A decision of policy that allows a caller; [`Judged::proven`](super::judged::Judged::proven) makes it.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) gateway_app_id: String,
    pub(super) by: DecidedBy,
    pub(super) relaxations: Relaxations,
    /// The epochs of the keys; those of the root keys for a replica.
    pub(super) epochs: GrantedEpochs,
    /// The rule that releases keys at the guest's stage; `None` if the request is not for keys of an app.
    pub(super) rule: Option<StageRule>,
    /// When policy decided.
    pub(super) at: Instant,
}

/// What a request to policy needs besides the identity, so that it can be repeated.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) verdict: TcbVerdict,
    pub(super) role: Role,
    pub(super) stage: Stage,
    /// The event by which the guest may have been opened since its boot.
    pub(super) opened_by: Option<String>,
    pub(super) asked: AskedEpochs,
}

/// A caller with a verified identity that is allowed in the role `R`.
#[derive(Debug)]
pub struct Permit<R> {
    admitted: Admitted,
    shown: Shown,
    grant: R,
}

impl<R> Permit<R> {
    pub(super) fn new(admitted: Admitted, shown: Shown, grant: R, _: NotFrozen) -> Self {
        Self { admitted, shown, grant }
    }

    pub(super) fn into_admitted(self) -> (Admitted, Shown, R) {
        (self.admitted, self.shown, self.grant)
    }

    /// The exceptions of `core.tcb` that the decision needed, because policy was told something else than
    /// [`Permit::identity`].
    pub fn relaxations(&self) -> &[String] {
        self.admitted.allowed.relaxations.labels()
    }

    /// The verified identity.
    pub fn identity(&self) -> &Identity {
        &self.admitted.identity
    }

    /// The rule that releases keys at the guest's stage; `None` if the request is not for keys of an app.
    pub fn stage_rule(&self) -> Option<StageRule> {
        self.admitted.allowed.rule
    }

    /// The domain that the caller is in, and the instance whose keys it gets there.
    pub fn placed(&self) -> &Placed {
        &self.admitted.placed
    }

    /// The name of the caller's domain.
    pub fn domain(&self) -> &DomainName {
        &self.admitted.placed.domain().name
    }

    /// The evidence that this permit is based on.
    pub fn shown(&self) -> Shown {
        self.shown
    }

    /// Whether the caller proved by fresh evidence that it is this guest now.
    pub fn is_fresh(&self) -> bool {
        self.admitted.proved == Proved::Fresh
    }

    /// The policy that allowed the caller.
    pub fn decided_by(&self) -> DecidedBy {
        self.admitted.allowed.by
    }

    /// The epochs at which an app gets its keys and certificates.
    pub fn epochs(&self) -> KeyEpochs {
        self.granted_epochs().used()
    }

    /// The same, with the older ones that it may ask for.
    pub fn granted_epochs(&self) -> &GrantedEpochs {
        &self.admitted.allowed.epochs
    }

    /// The refusal of a caller whose epoch has come to its end after this permit was given.
    pub fn without_epoch(&self, error: Unreadable) -> Refusal {
        let Admitted { identity, allowed, .. } = &self.admitted;
        Refusal::Epochs {
            denial: unreadable(error, self.epochs()),
            identity: Box::new(identity.clone()),
            relaxations: allowed.relaxations.clone(),
            by: Box::new(allowed.by),
        }
    }

    /// The gateway that policy names for the caller.
    pub fn gateway_app_id(&self) -> &str {
        &self.admitted.allowed.gateway_app_id
    }
}

impl Permit<Certificate> {
    /// What the certificate states about the app: the configuration that was authorized, and the device that
    /// was verified.
    pub fn app_info(&self) -> &AppInfo {
        &self.grant.app_info
    }
}

#[cfg(test)]
impl Permit<App> {
    /// A permit that was decided at this time, for tests of what asks for one.
    pub(crate) fn for_test(
        domains: &crate::control::Domains,
        identity: Identity,
        not_frozen: NotFrozen,
        at: Instant,
    ) -> Self {
        use kms_attest::tcb::TcbStatus;
        let admitted = Admitted {
            placed: Placed::of(domains, Role::App, &identity),
            identity,
            proved: Proved::Certificate,
            allowed: Allowed {
                gateway_app_id: String::new(),
                by: DecidedBy { policy: "allowlist", digest: Some([1; 32]) },
                relaxations: Relaxations::default(),
                epochs: GrantedEpochs::FIRST,
                rule: None,
                at,
            },
            compared: Compared::WAIVED,
            basis: Basis {
                verdict: TcbVerdict {
                    status: TcbStatus::UpToDate,
                    advisory_ids: Vec::new(),
                    fmspc: [0; 6],
                    gap: None,
                },
                role: Role::App,
                stage: Stage::Boot,
                opened_by: None,
                asked: AskedEpochs::NONE,
            },
        };
        let shown = Shown { digest: [0; 32], stage: Stage::Boot, spki_sha256: Some([2; 32]) };
        Self::new(admitted, shown, App(()), not_frozen)
    }
}

/// Proof that this KMS itself may serve: its own evidence was verified and allowed, or the operator has
/// disabled self-authorization (`core.enforce_self_authorization = false`).
#[derive(Debug, Clone)]
pub struct SelfAuthorization(Instant);

impl SelfAuthorization {
    /// A self-authorization that is granted now.
    pub(super) fn granted() -> Self {
        Self(Instant::now())
    }

    /// A self-authorization that was granted at this time, for tests of what asks for one.
    #[cfg(test)]
    pub(crate) fn for_test(at: Instant) -> Self {
        Self(at)
    }
}

impl Decided for SelfAuthorization {
    fn decided_at(&self) -> Instant {
        self.0
    }
}

impl<R> Decided for Permit<R> {
    fn decided_at(&self) -> Instant {
        self.admitted.allowed.at
    }
}
