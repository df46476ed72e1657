//! `LowerClockFloor`: an operator states that earlier audit records were made by a clock that was ahead.

use std::sync::Arc;

use super::AdminService;
use crate::api::Caller;
use crate::audit::LowerFloorError;
use crate::clock::{MAX_BEHIND, unix_now};
use crate::control::{Approved, LowerClockFloor};
use crate::error::{Error, Result};
use crate::proto::{LowerClockFloorRequest, LowerClockFloorResponse};
use crate::request;

impl AdminService {
    /// `Admin.LowerClockFloor`: ignores the dates of earlier audit records, because the clock was ahead when
    /// they were made and is right now.
    ///
    /// # Errors
    /// No reason; a clock that differs from the operator's own, or is behind signed data of others; an audit
    /// log that cannot be written. Nothing changes then.
    pub async fn lower_clock_floor(
        &self,
        caller: &Caller,
        request: LowerClockFloorRequest,
    ) -> Result<LowerClockFloorResponse> {
        let LowerClockFloorRequest { reason, now: theirs } = request;
        let reason = super::freeze::reason(reason)?;
        if reason.is_empty() {
            return Err(Error::invalid("reason must not be empty: say how the clock came to be ahead"));
        }
        let ours = unix_now();
        if ours.abs_diff(theirs) > MAX_BEHIND {
            return Err(Error::invalid(format!(
                "the clock of this KMS shows {ours} (Unix seconds) and yours {theirs}: set the one that is \
                 wrong first; nothing was changed"
            )));
        }
        let approved = self.gate.pass(caller, LowerClockFloor { reason, clock: ours }).await?;
        self.lower_clock_floor_approved(approved).await
    }

    /// Makes the change.
    pub(in crate::api) async fn lower_clock_floor_approved(
        &self,
        approved: Approved<LowerClockFloor>,
    ) -> Result<LowerClockFloorResponse> {
        let (audit, author) = (Arc::clone(&self.foundation.audit), approved.author().clone());
        let LowerClockFloor { reason, clock } = approved.action().clone();
        if unix_now().saturating_add(MAX_BEHIND) < clock {
            let why = "the clock was set back since it was compared; nothing was changed";
            return Err(Error::invalid(why));
        }
        // A task of its own, so that a caller that disconnects does not leave it half done.
        let change =
            request::spawn(async move { audit.lower_clock_floor(reason, author.by, author.remote).await });
        let lowered = change.await.map_err(|error| Error::internal("the change ended in a panic", error))?;
        match lowered {
            Ok(Some(from)) => Ok(LowerClockFloorResponse { was_behind: true, from }),
            Ok(None) => Ok(LowerClockFloorResponse { was_behind: false, from: 0 }),
            Err(error @ LowerFloorError::Signed(_)) => Err(Error::invalid(error.to_string())),
            Err(error @ LowerFloorError::NotRecorded(_)) => {
                let text = error.to_string();
                Err(Error::unavailable("the audit log does not take the record; nothing was changed", text))
            }
        }
    }
}
