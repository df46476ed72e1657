//! Proof that a caller was verified and allowed: only `admission` makes it, and secrets ask for it.

use std::time::Instant;

use kms_attest::identity::{AppInfo, Identity};
use kms_attest::measurement::Stage;
use kms_attest::tcb::TcbVerdict;

use super::{Decided, Relaxations, StageRule};
use crate::control::NotFrozen;
use crate::policy::Role;

/// May have the keys of its app.
#[derive(Debug)]
pub struct App(pub(super) ());

/// May have the root keys: a replica.
#[derive(Debug)]
pub struct Kms(pub(super) ());

/// May have a certificate of its app.
#[derive(Debug)]
pub struct Certificate {
    /// What the certificate states about the app, with the registers at run time.
    pub(super) app_info: AppInfo,
}

/// What names the evidence of a caller in a record, and how far the guest had come when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of the evidence.
    pub digest: [u8; 32],
    /// Before or after `system-ready`.
    pub stage: Stage,
}

/// What a caller was admitted as.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) identity: Identity,
    pub(super) allowed: Allowed,
    pub(super) basis: Basis,
    pub(super) shown: Shown,
}

/// What policy said.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) gateway_app_id: String,
    pub(super) relaxations: Relaxations,
    /// What released keys at the guest's stage; `None` where no keys of an app are asked for.
    pub(super) rule: Option<StageRule>,
    /// When.
    pub(super) at: Instant,
}

/// What policy is asked with besides the identity, so that it can be asked again.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) verdict: TcbVerdict,
    pub(super) role: Role,
    pub(super) stage: Stage,
}

/// The caller whose `identity` was verified and allowed in the role `R`.
#[derive(Debug)]
pub struct Permit<R> {
    admitted: Admitted,
    grant: R,
}

impl<R> Permit<R> {
    pub(super) fn new(admitted: Admitted, grant: R, _: NotFrozen) -> Self {
        Self { admitted, grant }
    }

    pub(super) fn into_admitted(self) -> (Admitted, R) {
        (self.admitted, self.grant)
    }

    /// What was needed of the operator's tolerance: policy was told something else than [`Permit::identity`].
    pub fn relaxations(&self) -> &[String] {
        self.admitted.allowed.relaxations.labels()
    }

    /// What was verified.
    pub fn identity(&self) -> &Identity {
        &self.admitted.identity
    }

    /// The rule by which keys are released at the guest's stage; `None` for what is released at every stage.
    pub fn stage_rule(&self) -> Option<StageRule> {
        self.admitted.allowed.rule
    }

    /// The evidence that this permit rests on.
    pub fn shown(&self) -> Shown {
        self.admitted.shown
    }

    /// The gateway that policy names for this caller.
    pub fn gateway_app_id(&self) -> &str {
        &self.admitted.allowed.gateway_app_id
    }
}

impl Permit<Certificate> {
    /// What the certificate states about the app: the configuration that was authorized, and the device that was
    /// verified.
    pub fn app_info(&self) -> &AppInfo {
        &self.grant.app_info
    }
}

#[cfg(test)]
impl Permit<App> {
    /// A permit that was decided at this time, for tests of what asks for one.
    pub(crate) fn for_test(identity: Identity, not_frozen: NotFrozen, at: Instant) -> Self {
        use kms_attest::tcb::TcbStatus;
        let admitted = Admitted {
            identity,
            allowed: Allowed {
                gateway_app_id: String::new(),
                relaxations: Relaxations::default(),
                rule: None,
                at,
            },
            basis: Basis {
                verdict: TcbVerdict {
                    status: TcbStatus::UpToDate,
                    advisory_ids: Vec::new(),
                    fmspc: [0; 6],
                    gap: None,
                },
                role: Role::App,
                stage: Stage::Boot,
            },
            shown: Shown { digest: [0; 32], stage: Stage::Boot },
        };
        Self::new(admitted, App(()), not_frozen)
    }
}

/// Proof that this KMS itself may serve: its own evidence was verified and allowed, or the operator has switched
/// self-authorization off (`core.enforce_self_authorization = false`).
#[derive(Debug, Clone)]
pub struct SelfAuthorization(Instant);

impl SelfAuthorization {
    /// Granted now.
    pub(super) fn granted() -> Self {
        Self(Instant::now())
    }

    /// One that was granted at some time, for what is tried with it.
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
