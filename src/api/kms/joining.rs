//! Invitations of replicas, as callers of the main listener use them.

use std::sync::Arc;
use std::time::Instant;

use kms_client::source::JoinToken;
use kms_wire::join::JoinReport;
use sha2::{Digest as _, Sha256};

use super::KmsService;
use crate::api::Caller;
use crate::api::lockout::{Guess, Guesser};
use crate::api::refusal::Attempt;
use crate::control::{Bound, Claimed, JoinError, Joins, ShownJoinToken};
use crate::error::{Code, Error, Result};
use crate::proto::ReportJoinRequest;

/// How far a caller with a token has come. Without a token nothing of this does anything.
pub(super) enum Joining {
    /// There is no token.
    Uninvited,
    /// The invitation is bound to the caller.
    Bound(Arc<Joins>, Bound),
    /// It is used up by the caller.
    Claimed(Arc<Joins>, Claimed),
    /// The caller was refused.
    Over,
}

impl KmsService {
    /// Reads the token of a request, and binds its invitation to the caller, whose evidence is verified for that.
    pub(super) async fn joining(
        &self,
        caller: &Caller,
        token: &str,
        attempt: &Attempt<'_>,
    ) -> Result<Joining> {
        if token.is_empty() {
            return Ok(Joining::Uninvited);
        }
        let joins = &self.foundation.joins;
        let shown = self.compared(caller, token).await?;
        joins.begin(&shown).await.map_err(refusal)?;
        let key = match self.admission.attested_key(caller.peer()).await {
            Ok(key) => key,
            Err(refusal) => {
                let error = attempt.refuse(refusal);
                note(joins, &shown, &error).await;
                return Err(error);
            }
        };
        let bound = joins.bind(shown, key).await.map_err(refusal)?;
        Ok(Joining::Bound(Arc::clone(joins), bound))
    }

    /// `KMS.ReportJoin`: a replica that got the root keys says what became of them.
    ///
    /// # Errors
    /// The token is wrong; the caller is not the one that got the keys; an unknown stage.
    pub async fn report_join(&self, caller: &Caller, request: ReportJoinRequest) -> Result<()> {
        let report = JoinReport::parse(&request.stage);
        let report = report.ok_or_else(|| Error::invalid("stage must be committed or serving"))?;
        // The handshake has proved that the caller has the key; whether it was attested is known since the invitation was bound.
        let key = caller.peer().spki().ok_or_else(|| {
            let text = "the client certificate with which the keys were received is needed";
            Error::new(Code::Unauthenticated, text)
        })?;
        let key = Sha256::digest(key).into();
        let shown = self.compared(caller, &request.join_token).await?;
        self.foundation.joins.report(&shown, key, report).await.map_err(refusal)
    }

    /// Compares the token of a caller. A wrong one counts as a wrong token of an operator.
    async fn compared(&self, caller: &Caller, token: &str) -> Result<ShownJoinToken> {
        let address = caller.remote();
        let locked = || {
            let text = "too many wrong credentials from this address; try later";
            Error::new(Code::TooManyRequests, text).because("join_locked")
        };
        // Before the comparison, which costs more than the request.
        if self.wrong_tokens.lockout().wait(Guesser::new(address, Guess::Token), Instant::now()).is_some() {
            return Err(locked());
        }
        let compared = match JoinToken::parse(token) {
            Ok(token) => self.foundation.joins.compare(&token, address).await,
            Err(_) => Err(JoinError::Wrong),
        };
        match compared {
            // It is no reason to forget wrong tokens of operators.
            Ok(shown) => Ok(shown),
            Err(JoinError::Wrong) => match self.wrong_tokens.token(address).await {
                Some(_) => Err(locked()),
                None => Err(refusal(JoinError::Wrong)),
            },
            Err(error) => Err(refusal(error)),
        }
    }
}

impl Joining {
    /// Notes the refusal, if it is one. The keys have not left then, so the same machine may try again.
    pub(super) async fn refused_if<T>(&mut self, outcome: Result<T>) -> Result<T> {
        let Err(error) = &outcome else { return outcome };
        match std::mem::replace(self, Self::Over) {
            Self::Bound(joins, bound) => note(&joins, bound.shown(), error).await,
            Self::Claimed(joins, claimed) => {
                let shown = joins.give_back(claimed).await;
                note(&joins, &shown, error).await;
            }
            Self::Uninvited | Self::Over => {}
        }
        outcome
    }

    /// Uses the invitation up.
    pub(super) async fn claim(&mut self) -> Result<()> {
        match std::mem::replace(self, Self::Over) {
            Self::Bound(joins, bound) => {
                let claimed = joins.claim(bound).await.map_err(refusal)?;
                *self = Self::Claimed(joins, claimed);
            }
            other @ (Self::Uninvited | Self::Claimed(..) | Self::Over) => *self = other,
        }
        Ok(())
    }

    /// The keys are about to leave.
    pub(super) fn handed_over(&self) {
        if let Self::Claimed(joins, claimed) = self {
            joins.handed_over(claimed);
        }
    }
}

async fn note(joins: &Arc<Joins>, shown: &ShownJoinToken, error: &Error) {
    let (code, denial) = match error.denial() {
        Some(denial) => (denial.code, Some(denial.id.as_str())),
        None => (error.reason(), None),
    };
    joins.refused(shown, code, denial).await;
}

/// What a caller with a token is told: nothing of the disk or the database.
fn refusal(error: JoinError) -> Error {
    let (code, reason) = (error.class(), error.code());
    let text = match &error {
        JoinError::NotKept(_)
        | JoinError::Unsynced(_)
        | JoinError::NotShared(_)
        | JoinError::Random(_)
        | JoinError::NotRecorded(_) => {
            "the use of the invitation cannot be noted now, so nothing is sent; try again".to_owned()
        }
        JoinError::Full
        | JoinError::Validity
        | JoinError::Label
        | JoinError::Unknown(_)
        | JoinError::Wrong
        | JoinError::Busy
        | JoinError::NotSeen
        | JoinError::Expired
        | JoinError::Cancelled
        | JoinError::Used
        | JoinError::UsedByAnother
        | JoinError::NoKeys
        | JoinError::Late => error.to_string(),
    };
    Error::new(code, text).because(reason).caused_by(error)
}
