//! `/v1/resolve/{app}`: whether a proxy may route to an app: its last release was verified, and today's policy and
//! freezes would allow it again.

use kms_attest::identity::{AppId, BootInfo};
use kms_policy::{Decision, NotCompared, Policy, PolicyError, Role, Subject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::query::Age;
use super::{Views, at};
use crate::admission::would_admit;
use crate::api::readiness::Cause;
use crate::clock::unix_now;
use crate::control::Scope;
use crate::error::{Code, Error, Result};
use crate::events::{Cvm, CvmAsk};
use crate::operator::DomainScope;

/// A release that is older does not count, unless the caller says otherwise: 90 days.
const MAX_AGE: u64 = 90 * 86_400;

/// Parameters of `GET /v1/resolve/{app}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveQuery {
    /// How old the last release may be, such as `12h` or `90d`.
    max_age: Option<Age>,
}

/// An app that requests may be sent to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Resolved {
    app: String,
    /// Its last release.
    released_at: String,
    tcb_status: String,
    /// Whether the measured registers were compared with those of the OS image. Evidence of debug VMs never verifies.
    sealed: bool,
    os_image_hash: String,
    /// Whether today's policy was asked: an allowlist is, a backend is not.
    policy_checked: bool,
}

impl Views {
    /// Whether requests may be sent to an app.
    ///
    /// # Errors
    /// Denied, with the reason: `never_released`, `stale`, `frozen`, or the code of the app's domain or policy. Unavailable, where releases
    /// stop too: the clock is behind, or the allowlist cannot be read. No index.
    pub async fn resolve(&self, scope: &DomainScope, app: &str, query: ResolveQuery) -> Result<Resolved> {
        let digits = app.strip_prefix("0x").unwrap_or(app).to_ascii_lowercase();
        let app_id: [u8; 20] = hex::decode(&digits)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Error::invalid("an app id has 40 hexadecimal digits"))?;
        let ask = CvmAsk { app_id: Some(digits.clone()), limit: 1, ..CvmAsk::default() };
        let page = self.inventory(move |inventory| inventory.cvms(&ask)).await?;
        // As it was released, and as it would be now.
        let is_seen = |cvm: &Cvm| {
            scope.reads(cvm.subject.domain_name().as_ref())
                && scope.has(&self.foundation().domains.of(&AppId(app_id)).name)
        };
        let newest = page.cvms.into_iter().next();
        let Some((_, cvm)) = newest.filter(|(_, cvm)| cvm.releases.count > 0 && is_seen(cvm)) else {
            return Err(denied("never_released", "this KMS has released no keys to the app"));
        };
        // A clock that is behind makes no release stale.
        self.foundation().verifier.cache().clock().check().map_err(|behind| {
            Error::unavailable(Cause::Clock.text(), behind.to_string()).because(Cause::Clock.name())
        })?;
        let max_age = query.max_age.map_or(MAX_AGE, |Age(age)| age);
        if cvm.releases.last / 1000 + max_age < unix_now() {
            return Err(denied("stale", "the last release to the app is too long ago"));
        }
        let identity =
            told(&cvm, app_id).ok_or_else(|| denied("unreadable", "its record cannot be judged"))?;
        self.check_frozen(&identity)?;
        would_admit(&self.foundation().domains.of(&AppId(app_id)), &identity)
            .map_err(|denial| denied(denial.code.name(), &denial.reason))?;
        // By the file as it is now. A backend is not asked: proxies ask more often than CVMs boot.
        let (_, policy) = self.foundation().place_of(Some(Role::App), &AppId(app_id));
        let policy_checked = match &**policy {
            Policy::AllowAll(_) | Policy::Allowlist(_) | Policy::Bundled(_) => {
                allowed(policy.decide(Subject::App(&identity)).await)?;
                true
            }
            Policy::Webhook(_) | Policy::Ethereum(_) => false,
        };
        Ok(Resolved {
            app: digits,
            released_at: at(cvm.releases.last),
            tcb_status: cvm.subject.tcb_status,
            sealed: self.sources.meta.relaxed().verifies_os_images(),
            os_image_hash: cvm.subject.os_image_hash,
            policy_checked,
        })
    }

    fn check_frozen(&self, identity: &BootInfo) -> Result<()> {
        let freezes = &self.foundation().freezes;
        let scopes = [
            ("kms", &[][..]),
            ("app", &identity.app_id),
            ("instance", &identity.instance_id),
            ("device", &identity.device_id),
            ("os_image", &identity.os_image_hash),
        ];
        let frozen = scopes
            .into_iter()
            .filter_map(|(name, value)| Scope::parse(name, value).ok())
            .find(|scope| freezes.of(*scope).is_some());
        match frozen {
            None => Ok(()),
            Some(scope) => Err(denied("frozen", &format!("an operator has frozen {}", scope.name()))),
        }
    }
}

/// What today's rules say.
fn allowed(decision: std::result::Result<Decision, PolicyError>) -> Result<()> {
    match decision {
        Ok(Decision::Allowed { .. }) => Ok(()),
        Ok(Decision::IfImage(condition)) => {
            let denial = condition.otherwise(&NotCompared::IdentityOnly);
            Err(denied(denial.code.name(), &denial.reason))
        }
        Ok(Decision::Denied(denial)) => Err(denied(denial.code.name(), &denial.reason)),
        Err(error) => {
            let unavailable = Error::unavailable("the policy cannot be read", error.detail().to_owned());
            Err(unavailable.because(Cause::PolicyUnavailable.name()))
        }
    }
}

fn denied(code: &'static str, message: &str) -> Error {
    Error::new(Code::Denied, message).because(code)
}

/// The identity of the last release, as policy gets it. The log does not have `mr_system` and the key provider of a
/// release, which no rule about apps compares; and the TCB status is the measured one, also where `core.tcb` let policy
/// be told another one, so an exception that was needed is not extended to routes.
fn told(cvm: &Cvm, app_id: [u8; 20]) -> Option<BootInfo> {
    let subject = &cvm.subject;
    Some(BootInfo {
        tee_variant: subject.tee_variant.clone(),
        mr_aggregated: hex::decode(&subject.mr_aggregated).ok()?,
        os_image_hash: hex::decode(&subject.os_image_hash).ok()?,
        mr_system: Vec::new(),
        app_id: app_id.to_vec(),
        compose_hash: hex::decode(&subject.compose_hash).ok()?,
        instance_id: hex::decode(&subject.instance_id).ok()?,
        device_id: hex::decode(&subject.device_id).ok()?,
        key_provider_info: Vec::new(),
        tcb_status: subject.tcb_status.clone(),
        advisory_ids: subject.advisory_ids.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_cannot_decide_allows_no_route_and_tells_no_path() {
        let silent = PolicyError::Unavailable { detail: "/srv/allowlist.json does not respond".to_owned() };
        let error = allowed(Err(silent)).expect_err("no decision");
        assert_eq!((error.code(), error.reason()), (Code::Unavailable, "policy_unavailable"));
        assert!(!error.message().contains("srv"), "{}", error.message());
    }
}
