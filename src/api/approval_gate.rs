//! What each change of an owner passes before it is made: at once, or after a second owner has approved it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::Caller;
use crate::clock::rfc3339;
use crate::control::{Action, Approval, ApprovalError, Approvals, Approved, Gate, State};
use crate::error::{Code, Error, Result};
use crate::operator::Operator;
use crate::request;

/// What each change of an owner passes before it is made.
#[derive(Debug, Clone)]
pub struct ApprovalGate(Arc<Approvals>);

impl ApprovalGate {
    /// The gate of one KMS.
    pub fn new(approvals: Arc<Approvals>) -> Self {
        Self(approvals)
    }

    /// Whether changes need two owners.
    pub fn needs_two(&self) -> bool {
        self.0.needs_two()
    }

    /// Proof that the change may be made now.
    ///
    /// # Errors
    /// [`Code::ApprovalNeeded`] with the request that waits for a second owner now; `other_domain`, unless it is a credential
    /// of the caller's domain; or a request that cannot be made.
    pub async fn pass<A>(&self, caller: &Caller, action: A) -> Result<Approved<A>>
    where
        A: Into<Action> + Clone + Send + Sync + 'static,
    {
        let described: Action = action.clone().into();
        if described.concerns_whole_kms() {
            caller.expect_whole_kms()?;
        }
        let (changer, approvals) = (caller.changer()?, Arc::clone(&self.0));
        // A task of its own, so that a caller that disconnects does not leave a request half made.
        let gate = request::spawn(async move { approvals.gate(action, changer).await });
        match gate.await.map_err(|error| Error::internal("the request ended in a panic", error))? {
            Ok(Gate::Go(approved)) => Ok(approved),
            Ok(Gate::Wait(approval)) => Err(needed(&approval, caller.identity())),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A change that waits for a second owner, or what became of it. Times are RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// 16 hex digits.
    pub id: String,
    /// The kind of the change.
    pub action: &'static str,
    /// The change as a sentence.
    pub detail: String,
    /// SHA-256 of what will be done, hex: of the document, if there is one.
    pub sha256: String,
    /// The owner who requested it.
    pub requested_by: String,
    /// When.
    pub requested_at: String,
    /// Until when it can be approved.
    pub expires_at: String,
    /// `waiting`, `approved` (the change is being made), `done`, `failed`, `rejected` or `expired`.
    pub state: &'static str,
    /// The second owner.
    pub approved_by: Option<String>,
    /// What happened, or why it did not.
    pub result: Option<String>,
    /// How many owners it needs.
    pub needed: u8,
    /// Whether the caller requested it, and therefore cannot approve it.
    pub own: bool,
    /// The document that will be put in force, where one request is asked for. Of an htpasswd file it is a line for each user
    /// with the SHA-256 of the entry, and only for owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The caller's half of the invitation that the change made: the second half in the response to the approval, the first
    /// half for the owner who requested it, until the invitation lapses. Its holder writes the second one after the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Shown {
    pub(super) fn of(approval: &Approval, caller: Option<&Operator>) -> Self {
        let (state, approved_by, result) = match &approval.state {
            State::Waiting => ("waiting", None, None),
            State::Approved { by } => ("approved", Some(by), None),
            State::Done { by, result } => ("done", Some(by), Some(result.clone())),
            State::Failed { by, result } => ("failed", Some(by), Some(result.clone())),
            State::Rejected { by } => ("rejected", None, Some(format!("rejected by {by}"))),
            State::Expired { result } => ("expired", None, Some(result.clone())),
        };
        Self {
            id: approval.id.clone(),
            action: approval.action.name(),
            detail: approval.detail.clone(),
            sha256: approval.sha256.clone(),
            requested_by: approval.requested_by.clone(),
            requested_at: rfc3339(approval.requested_at),
            expires_at: rfc3339(approval.expires_at),
            state,
            approved_by: approved_by.cloned(),
            result,
            needed: 2,
            own: caller.is_some_and(|caller| caller.to_string() == approval.requested_by),
            document: None,
            token: None,
        }
    }
}

/// A change that waits, as an error: no response of a method can say it.
fn needed(approval: &Approval, caller: Option<&Operator>) -> Error {
    let id = &approval.id;
    let message = format!(
        "this needs a second owner, and nothing was changed yet: another owner approves request {id} with kmsctl approvals \
         approve {id}"
    );
    let error = Error::new(Code::ApprovalNeeded, message);
    match serde_json::to_value(Shown::of(approval, caller)) {
        Ok(shown) => error.awaiting(shown),
        Err(_) => error,
    }
}

/// Owners see the cause: they are authenticated, and it contains no path.
pub(super) fn failed(error: ApprovalError) -> Error {
    let code = match error {
        ApprovalError::NotLive => Code::Unauthenticated,
        ApprovalError::NotOwner | ApprovalError::SamePerson => Code::Denied,
        ApprovalError::Full
        | ApprovalError::FullOfOne
        | ApprovalError::FullOfDocuments
        | ApprovalError::Unknown(_)
        | ApprovalError::Ended { .. }
        | ApprovalError::OtherPayload { .. } => Code::InvalidRequest,
        ApprovalError::NotRecorded(_)
        | ApprovalError::NotKept(_)
        | ApprovalError::Unsynced(_)
        | ApprovalError::NoRandomNumbers => Code::Unavailable,
    };
    Error::new(code, error.to_string()).caused_by(error)
}
