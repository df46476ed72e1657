//! `ListDenials`: the requests that were refused recently.

use kms_attest::identity::{AppId, AppIdLength, DomainName};
use kms_policy::Role;

use super::{AdminService, shown};
use crate::api::Caller;
use crate::control::RefusalRecord;
use crate::error::{Error, Result};
use crate::proto::{DenialRecord, ListDenialsRequest, ListDenialsResponse};

/// Records on a page by default.
const PAGE: usize = 50;
const MAX_PAGE: usize = 200;

impl AdminService {
    /// `Admin.ListDenials`, newest first.
    ///
    /// # Errors
    /// An app id of another length; no name of a domain.
    pub async fn list_denials(
        &self,
        caller: &Caller,
        request: ListDenialsRequest,
    ) -> Result<ListDenialsResponse> {
        let scope = caller.scope()?;
        let ListDenialsRequest { limit, before, code, app_id, domain } = request;
        let app_id = match app_id.as_slice() {
            [] => None,
            bytes => Some(AppId::try_from(bytes).map_err(|AppIdLength(length)| {
                Error::invalid(format!("app_id must be 20 bytes or empty, got {length}"))
            })?),
        };
        let domain = match domain.as_str() {
            "" => None,
            name => {
                let name = name.parse::<DomainName>();
                Some(
                    name.map_err(|error| Error::invalid(format!("domain must be a name or empty: {error}")))?,
                )
            }
        };
        let limit = match usize::try_from(limit).unwrap_or(MAX_PAGE) {
            0 => PAGE,
            limit => limit.min(MAX_PAGE),
        };
        let matches = |denial: &RefusalRecord| {
            let is_of = |app_id| denial.identity.as_ref().is_some_and(|identity| identity.app_id == app_id);
            denial.is_in(scope)
                && domain.as_ref().is_none_or(|domain| denial.place.as_ref() == Some(domain))
                && (code.is_empty() || denial.code == code)
                && app_id.is_none_or(is_of)
        };
        let (page, next) = self.kms.denials.page(Some(before).filter(|before| *before > 0), limit, matches);
        Ok(ListDenialsResponse {
            denials: page.iter().map(|denial| record(denial)).collect(),
            next: next.unwrap_or(0),
        })
    }
}

/// A refused request in the form that operators see.
pub(super) fn record(denial: &RefusalRecord) -> DenialRecord {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    DenialRecord {
        id: denial.id.to_string(),
        sequence: denial.sequence,
        first: denial.first,
        last: denial.last,
        count: denial.count,
        method: denial.method.to_owned(),
        remote: denial.remote.to_string(),
        subject: denial.role.map_or("", Role::name).to_owned(),
        code: denial.code.to_owned(),
        step: denial.step.to_owned(),
        reason: denial.reason.clone(),
        expected: text(&denial.expected),
        actual: text(&denial.actual),
        remedy: text(&denial.remedy),
        identity: denial.identity.as_ref().map(|identity| shown(identity.into())),
        explainable: denial.shown.is_some(),
        root_epoch: denial.epochs.0,
        app_epoch: denial.epochs.1,
        fresh_evidence: denial.fresh.name().to_owned(),
        app_domain: denial.domain.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
