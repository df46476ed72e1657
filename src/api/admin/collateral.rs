//! `RefreshCollateral`: fetches Intel's collateral again now.

use std::sync::Arc;
use std::time::Duration;

use kms_attest::collateral::{CollateralError, Refreshed};

use super::AdminService;
use crate::api::Caller;
use crate::audit::Event;
use crate::error::{Error, Result};
use crate::proto::{RefreshCollateralResponse, RefreshedCollateral};
use crate::request;

/// How long a response waits for the collateral services.
const FETCH_TIME: Duration = Duration::from_secs(25);

impl AdminService {
    /// `Admin.RefreshCollateral`: fetches everything in the cache again, and verifies every caller again by
    /// the result. What cannot be fetched stays as it is.
    ///
    /// # Errors
    /// The services take too long: fetching goes on, and is recorded when it ends.
    pub async fn refresh_collateral(&self, caller: &Caller, (): ()) -> Result<RefreshCollateralResponse> {
        let (verifier, audit) = (Arc::clone(&self.foundation.verifier), Arc::clone(&self.foundation.audit));
        let author = caller.author();
        // A task of its own, so that a caller that disconnects does not leave it half done.
        let refresh = request::spawn(async move {
            let refreshed = verifier.cache().refresh_all().await;
            let failed = refreshed.iter().filter(|model| model.outcome.is_err()).count();
            audit.note(Event::CollateralRefreshed {
                models: refreshed.len() as u64,
                failed: failed as u64,
                by: author.by,
                remote: author.remote,
            });
            refreshed
        });
        let models = match tokio::time::timeout(FETCH_TIME, refresh).await {
            Ok(Ok(refreshed)) => refreshed.iter().map(shown).collect(),
            Ok(Err(error)) => return Err(Error::internal("the refresh ended in a panic", error)),
            Err(slow) => {
                return Err(Error::unavailable("the collateral services are slow; fetching goes on", slow));
            }
        };
        Ok(RefreshCollateralResponse { models })
    }
}

fn shown(Refreshed { platform, before, outcome }: &Refreshed) -> RefreshedCollateral {
    let (numbers, issued, expires, failure) = match outcome {
        Ok(collateral) => (collateral.numbers(), collateral.issued(), collateral.expires(), String::new()),
        Err(error) => (*before, 0, 0, why(error)),
    };
    RefreshedCollateral {
        fmspc: platform.fmspc.to_vec(),
        ca: platform.ca.as_str().to_owned(),
        failure,
        tcb_evaluation_number: numbers.tcb_info,
        qe_evaluation_number: numbers.qe_identity,
        root_crl_number: numbers.root_crl,
        pck_crl_number: numbers.pck_crl,
        is_newer: numbers != *before,
        issued,
        expires,
    }
}

/// What each service did, for operators; no text contains a service's address.
fn why(error: &CollateralError) -> String {
    match error {
        CollateralError::Unavailable { failures } if !failures.is_empty() => {
            failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
        error => error.to_string(),
    }
}
