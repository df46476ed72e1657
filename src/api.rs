//! The methods of the API as plain async functions, the access table, and the caller.

pub mod actions;
pub mod admin;
pub mod approval_gate;
pub mod approvals;
pub mod attestation;
pub mod ceremony;
pub mod credentials;
pub mod diagnostics;
pub mod domains;
mod env_keys;
pub mod epochs;
pub mod events;
mod exchange;
pub mod fleet;
pub mod health;
pub(crate) mod images;
pub mod joins;
pub mod kms;
pub mod lockout;
pub mod me;
pub mod meta;
pub mod onboard;
pub mod openapi;
pub mod operations;
pub mod policy;
pub mod prepared;
pub mod quota;
pub mod readiness;
mod receipt;
pub mod recovery;
mod refusal;
pub mod reload;
mod remedy;
pub mod restart;
pub mod rollout;
pub mod routes;
pub mod settings;
pub mod setup;
pub mod uploads;
pub mod views;
pub mod wrong_credentials;

use std::net::IpAddr;
use std::sync::Arc;

use kms_attest::identity::AppId;
pub use kms_wire::method::{Access, ByGet, METHODS, Method, Reach, Row, Service, WhileStale};
pub use kms_wire::role::Role;

use crate::admission::Peer;
use crate::control::{Author, Changer};
use crate::error::{Code, Error, Result};
use crate::operator::{Credentials, DomainScope, Operator};

/// How a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over plain HTTP: others may read along.
    Plain,
    /// Over TLS that ends in this process.
    Tls,
}

/// The caller: an address, what the TLS layer knows of the peer, and the operator whose credentials were
/// shown.
#[derive(Clone, Debug)]
pub struct Caller {
    remote: IpAddr,
    transport: Transport,
    peer: Arc<Peer>,
    operator: Option<Arc<Operator>>,
    /// By which the operator was identified, and may count no more while its request waits or runs.
    credentials: Option<Arc<Credentials>>,
    /// What the operator may see and change.
    scope: Option<DomainScope>,
}

impl Caller {
    /// A caller on a connection from `remote`, of which nothing says that it is encrypted.
    pub fn new(remote: IpAddr, peer: Arc<Peer>) -> Self {
        Self { remote, transport: Transport::Plain, peer, operator: None, credentials: None, scope: None }
    }

    /// The same caller, on a connection of this kind.
    pub fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// How the request arrived.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The address that the connection comes from.
    pub fn remote(&self) -> IpAddr {
        self.remote
    }

    /// The same caller, authenticated as `operator`, who sees the whole KMS, or nothing if limited to a domain.
    pub fn identified(self, operator: Operator) -> Self {
        let scope = operator.domain().is_none().then_some(DomainScope::WHOLE_KMS);
        Self { operator: Some(Arc::new(operator)), scope, ..self }
    }

    /// The same caller, authenticated as `operator` for as long as `credentials` has it.
    pub fn identified_by(
        self,
        operator: Operator,
        scope: DomainScope,
        credentials: Arc<Credentials>,
    ) -> Self {
        Self { credentials: Some(credentials), scope: Some(scope), ..self.identified(operator) }
    }

    /// What the operator may see and change.
    ///
    /// # Errors
    /// Nobody has identified the caller, which is a fault of ours.
    pub fn scope(&self) -> Result<&DomainScope> {
        self.scope.as_ref().ok_or_else(|| Error::internal("no operator", "caller is not identified"))
    }

    /// As [`Caller::authorize`]; and a caller whose credential is limited to a domain uses nothing that is about the whole KMS,
    /// except that it reads, where the KMS has no other domain, what viewers and auditors may.
    ///
    /// # Errors
    /// Those of [`Caller::authorize`]; `other_domain`.
    pub fn admit(&self, access: Access, reach: Reach) -> Result<()> {
        self.authorize(access)?;
        let Some(role) = access.role().filter(|_| reach == Reach::WholeKms) else { return Ok(()) };
        if !self.scope()?.reads_whole_kms() {
            return Err(other_domain(self.scope()?, "this is about the whole KMS"));
        }
        match role.includes(Role::Operator) {
            true => self.expect_whole_kms(),
            false => Ok(()),
        }
    }

    /// Whether the credential that the caller has shown is still valid.
    pub fn is_live(&self) -> bool {
        match (&self.operator, &self.credentials) {
            (Some(operator), Some(credentials)) => credentials.is_live(operator),
            _ => true,
        }
    }

    /// Resolves once the credential that the caller has shown is no longer valid; never without one.
    pub async fn ended(&self) {
        match (&self.operator, &self.credentials) {
            (Some(operator), Some(credentials)) => credentials.ended(operator).await,
            _ => std::future::pending().await,
        }
    }

    /// The operator, where credentials are required: `token`, `user <name>` or `anyone`.
    pub fn operator(&self) -> Option<String> {
        self.operator.as_ref().map(ToString::to_string)
    }

    /// The operator whose credentials were shown, if they were asked for.
    pub fn identity(&self) -> Option<&Operator> {
        self.operator.as_deref()
    }

    /// Whether this caller may use what `access` guards, as far as credentials decide it: evidence, tokens in messages and the
    /// onboarding token are looked at elsewhere.
    ///
    /// # Errors
    /// The credential has another role or is no longer valid, or no credential was asked for.
    pub fn authorize(&self, access: Access) -> Result<()> {
        let least = match access {
            Access::Open
            | Access::Onboarding
            | Access::AttestedCertificate
            | Access::AttestedMessage
            | Access::TokenInMessage => return Ok(()),
            Access::Invitation => None,
            Access::Operator(role) | Access::OperatorAndAttestedCertificate(role) => Some(role),
        };
        if !self.is_live() {
            return Err(Error::new(Code::Unauthenticated, "the credential does not count any more"));
        }
        let denied = |text: String| Err(Error::new(Code::Denied, text));
        match (least, self.identity()) {
            (None, Some(Operator::Invited { .. })) => Ok(()),
            (
                None,
                Some(
                    Operator::Anyone
                    | Operator::Token
                    | Operator::User { .. }
                    | Operator::Named { .. }
                    | Operator::Oidc { .. },
                )
                | None,
            ) => denied("this needs an invitation".to_owned()),
            (Some(least), operator) => match operator.and_then(Operator::role) {
                Some(role) if role.includes(least) => Ok(()),
                Some(role) => denied(format!(
                    "this needs a credential with the role {least}; yours has the role {role}"
                )),
                None if matches!(operator, Some(Operator::Oidc { .. })) => denied(format!(
                    "this needs a credential with the role {least}; no group of yours has a role (core.admin.oidc.roles)"
                )),
                None => denied(format!(
                    "this needs a credential with the role {least}; an invitation must be activated first"
                )),
            },
        }
    }

    /// The author of what this caller changes.
    pub fn author(&self) -> Author {
        let by = self.operator.as_ref().map_or_else(|| "anyone".to_owned(), ToString::to_string);
        Author { by, remote: self.remote }
    }

    /// The operator that changes something.
    ///
    /// # Errors
    /// No credentials were asked for, which is a fault of ours.
    pub fn changer(&self) -> Result<Changer> {
        let operator = self.identity().cloned();
        let operator = operator.ok_or_else(|| Error::internal("no operator", "caller is not identified"))?;
        Ok(Changer::new(operator, self.author()))
    }

    /// Checks that the caller's credential is not limited to a domain: what it is about to change concerns the whole KMS.
    ///
    /// # Errors
    /// `other_domain`
    pub fn expect_whole_kms(&self) -> Result<()> {
        let Some(domain) = self.identity().and_then(Operator::domain) else { return Ok(()) };
        let text =
            format!("your credential is limited to the domain {domain}, and this changes the whole KMS");
        Err(Error::new(Code::Denied, text).because("other_domain"))
    }

    /// What the TLS layer knows, with the evidence verified on this connection.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// The refusal of something that is not in a scope.
pub(crate) fn other_domain(scope: &DomainScope, why: &str) -> Error {
    let domain = scope.limit().map_or("default", |domain| domain.as_str());
    let text = format!("your credential is limited to the domain {domain}, and {why}");
    Error::new(Code::Denied, text).because("other_domain")
}

/// The app id that an operator wrote, with or without `0x`.
fn app_id(text: &str) -> Result<AppId> {
    let mut id = [0; 20];
    match hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut id) {
        Ok(()) => Ok(AppId(id)),
        Err(_) => Err(Error::invalid("an app id has 40 hex digits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_for_the_policy_fits_into_its_request() {
        assert_eq!(Method::StartShadow.row().body_limit, crate::control::MAX_CANDIDATE);
    }
}
