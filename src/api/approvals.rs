//! Changes of owners that wait for a second owner: how they are approved and made.

mod halves;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::halves::Halves;
use super::Caller;
use super::admin::AdminService;
pub use super::approval_gate::Shown;
use super::approval_gate::failed;
use super::credentials::CredentialService;
use super::domains::DomainService;
use super::epochs::EpochService;
use super::fleet::FleetService;
use super::joins::JoinService;
use super::policy::{BundleService, PolicyService};
use super::recovery::RecoveryService;
use super::rollout::RolloutService;
use super::uploads::HtpasswdFile;
use crate::control::{Action, Approval, ApprovalError, Approvals, Approved, EachApproved};
use crate::error::{Error, Result};
use crate::operator::{DomainScope, Operator};
use crate::request;

/// Approves and rejects what waits.
#[derive(Debug)]
pub struct ApprovalService {
    approvals: Arc<Approvals>,
    makers: Makers,
    halves: Arc<Halves>,
}

/// The services that make approved changes.
#[derive(Debug, Clone)]
pub struct Makers {
    /// Freezes, and the clock floor.
    pub admin: Arc<AdminService>,
    /// The allowlist.
    pub policy: Arc<PolicyService>,
    /// Signed bundles of policies.
    pub bundles: Arc<BundleService>,
    /// The epochs of the root keys.
    pub epochs: Arc<EpochService>,
    /// The domains.
    pub domains: Arc<DomainService>,
    /// The nodes that share their state.
    pub fleet: Arc<FleetService>,
    /// The invitations of replicas.
    pub joins: Arc<JoinService>,
    /// Rollouts.
    pub rollout: Arc<RolloutService>,
    /// The htpasswd file.
    pub htpasswd: Arc<HtpasswdFile>,
    /// Recovery sets.
    pub recovery: Arc<RecoveryService>,
    /// Credentials; `None` where no credentials are needed.
    pub credentials: Option<Arc<CredentialService>>,
}

/// The body of `POST /api/v1/approvals/{id}/approve`, which may be empty.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// The SHA-256 of what is approved, as the approver has seen it, in hex: anything else is not approved.
    #[serde(default)]
    sha256: Option<String>,
}

/// A list of requests.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listed {
    /// Oldest first.
    pub approvals: Vec<Shown>,
}

/// What a change did.
struct Made {
    result: String,
    token: Option<Zeroizing<String>>,
}

impl Made {
    fn of(result: impl Into<String>) -> Self {
        Self { result: result.into(), token: None }
    }
}

impl ApprovalService {
    /// The service over the requests of a KMS.
    pub fn new(approvals: Arc<Approvals>, makers: Makers) -> Self {
        Self { approvals, makers, halves: Arc::default() }
    }

    /// All requests that are known and that the caller may see.
    ///
    /// # Errors
    /// Nobody has identified the caller.
    pub fn list(&self, caller: &Caller) -> Result<Listed> {
        let scope = caller.scope()?;
        let shown = |approval: Arc<Approval>| Shown::of(&approval, caller.identity());
        let mut approvals = self.approvals.list();
        approvals.retain(|approval| self.is_seen(approval, scope, caller));
        Ok(Listed { approvals: approvals.into_iter().map(shown).collect() })
    }

    /// One request, with the document that will be put in force, as the caller's role may see it, and the caller's half of the
    /// invitation that it made.
    ///
    /// # Errors
    /// There is no such request.
    pub fn show(&self, caller: &Caller, id: &str) -> Result<Shown> {
        let scope = caller.scope()?;
        let approval = self.approvals.find(id).filter(|approval| self.is_seen(approval, scope, caller));
        let approval = approval.ok_or_else(|| failed(ApprovalError::Unknown(id.to_owned())))?;
        let role = caller.identity().and_then(Operator::role);
        let document = approval.action.shown_to(role).filter(|document| !document.is_empty());
        let half = caller
            .identity()
            .filter(|operator| self.approvals.is_requester(&approval, operator))
            .and_then(|_| self.halves.of_requester(&approval.id));
        let token = half.map(|half| half.as_str().to_owned());
        Ok(Shown { document, token, ..Shown::of(&approval, caller.identity()) })
    }

    /// Whether the caller may see a request: one of its own, or about its domain.
    fn is_seen(&self, approval: &Approval, scope: &DomainScope, caller: &Caller) -> bool {
        let is_own = |operator| self.approvals.is_requester(approval, operator);
        scope.reads(approval.action.domain().as_ref()) || caller.identity().is_some_and(is_own)
    }

    /// Approves a request, and makes the change. That the change failed is in the response, which is no error then.
    ///
    /// # Errors
    /// It was not approved.
    pub async fn approve(&self, caller: &Caller, id: &str, request: ApproveRequest) -> Result<Shown> {
        if self.approvals.find(id).is_some_and(|approval| !approval.action.counts_while_stale()) {
            self.makers.fleet.expect_known(caller)?;
        }
        let (changer, approvals, makers) =
            (caller.changer()?, Arc::clone(&self.approvals), self.makers.clone());
        let (id, caller, halves) = (id.to_owned(), caller.clone(), Arc::clone(&self.halves));
        // A task of its own: the change is made even if the client disconnects.
        let change = request::spawn(async move {
            let approved =
                approvals.approve(&id, request.sha256.as_deref(), changer).await.map_err(failed)?;
            let made = request::spawn(async move { makers.make(approved).await }).await;
            let made =
                made.unwrap_or_else(|error| Err(Error::internal("the change ended in a panic", error)));
            let (outcome, token) = match made {
                Ok(Made { result, token }) => (Ok(result), token),
                Err(error) => {
                    tracing::warn!(id, cause = error.chain(), "an approved change failed");
                    (Err(error.message().to_owned()), None)
                }
            };
            let token = token.map(|invitation| halves.split(&id, &invitation));
            let ended = approvals.finish(&id, outcome).await;
            let ended = ended.ok_or_else(|| Error::internal("internal error", "the request is gone"))?;
            let token = token.map(|token| token.as_str().to_owned());
            Ok(Shown { token, ..Shown::of(&ended, caller.identity()) })
        });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    /// Rejects a request, or takes it back.
    ///
    /// # Errors
    /// It still waits.
    pub async fn reject(&self, caller: &Caller, id: &str) -> Result<Shown> {
        let (changer, approvals, id) = (caller.changer()?, Arc::clone(&self.approvals), id.to_owned());
        let change = request::spawn(async move { approvals.reject(&id, changer).await });
        let rejected = change.await.map_err(|error| Error::internal("the change ended in a panic", error))?;
        let rejected = rejected.map_err(failed)?;
        Ok(Shown::of(&rejected, caller.identity()))
    }
}

impl Makers {
    async fn make(&self, approved: Approved<Action>) -> Result<Made> {
        match approved.by_kind() {
            EachApproved::Unfreeze(approved) => {
                let thawed = self.admin.unfreeze_approved(approved).await?;
                Ok(Made::of(if thawed.was_frozen {
                    "it is not frozen any more"
                } else {
                    "it was not frozen"
                }))
            }
            EachApproved::LowerClockFloor(approved) => {
                let lowered = self.admin.lower_clock_floor_approved(approved).await?;
                Ok(Made::of(match lowered.was_behind {
                    true => "the dates of earlier audit records are ignored",
                    false => "the clock was not behind, so nothing was changed",
                }))
            }
            EachApproved::ActivatePolicy(approved) => {
                let placed = Arc::clone(&self.policy).place_approved(&approved).await?;
                Ok(Made::of(placed.message))
            }
            EachApproved::ActivateBundle(approved) => {
                let outcome = Arc::clone(&self.bundles).activate_approved(&approved).await?;
                Ok(Made::of(outcome.message))
            }
            EachApproved::ReplaceHtpasswd(approved) => {
                let placed = Arc::clone(&self.htpasswd).place_approved(approved).await?;
                Ok(Made::of(placed.message))
            }
            EachApproved::CreateRecoverySet(approved) => {
                let set = Arc::clone(&self.recovery).create_approved(approved).await?.set;
                Ok(Made::of(format!(
                    "recovery set {set} counts now; get its files with kmsctl recovery fetch {set}"
                )))
            }
            EachApproved::Epoch(approved) => Ok(Made::of(self.epochs.make_approved(approved).await?)),
            EachApproved::RepairFleet(approved) => {
                self.fleet.repair_approved(approved).await?;
                Ok(Made::of("the state of this node is that of its fleet now"))
            }
            EachApproved::StartRollout(approved) => {
                Ok(Made::of(self.rollout.start_approved(approved).await?))
            }
            EachApproved::ForgetNode(approved) => {
                self.fleet.forget_approved(approved).await?;
                Ok(Made::of("the node is forgotten"))
            }
            EachApproved::InviteReplica(approved) => {
                let invited = self.joins.invite_approved(approved).await?;
                let (id, token) = (&invited.record.id, Zeroizing::new(invited.token.expose().to_owned()));
                let domain = &invited.record.domain;
                let result = format!("{domain} is invited; show its command with kmsctl replica show {id}");
                Ok(Made { result, token: Some(token) })
            }
            EachApproved::MoveApp(approved) => Ok(Made::of(self.domains.move_approved(approved).await?)),
            EachApproved::RestoreDomain(approved) => {
                Ok(Made::of(self.domains.restore_approved(approved).await?))
            }
            EachApproved::OwnerCredential(approved) => {
                let Some(credentials) = &self.credentials else {
                    return Err(Error::invalid("there are no credentials; nothing was changed"));
                };
                let (result, token) = credentials.change_owner(approved).await?;
                Ok(Made { result, token })
            }
        }
    }
}
