//! What the caller's own credential is, and what it may do.

use std::sync::Arc;

use kms_wire::role::Role;
use schemars::JsonSchema;
use serde::Serialize;

use super::Caller;
use crate::clock::{rfc3339, unix_now};
use crate::error::{Error, Result};
use crate::operator::{Credentials, Operator};

/// Tells operators who they are.
#[derive(Debug)]
pub struct MeService {
    credentials: Arc<Credentials>,
    boot_id: String,
}

/// The caller's credential. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Me {
    /// The name of the credential or user; `token` for the token of the configuration.
    name: String,
    /// What the caller may do: `owner`, `operator`, `auditor`, `viewer` or `events-writer`.
    role: &'static str,
    /// The domain that the credential is limited to; null if it is for the whole KMS.
    domain: Option<String>,
    kind: Kind,
    /// The end of the credential; null if it does not expire.
    expires_at: Option<String>,
    /// The clock of the KMS.
    server_time: String,
    /// Another one at each start of the KMS.
    boot_id: String,
    /// The version of the KMS.
    version: &'static str,
}

/// How the caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// The token of the configuration.
    Token,
    /// A user of the htpasswd file.
    User,
    /// A named credential.
    Named,
    /// A user of the issuer of access tokens (OpenID Connect).
    Oidc,
    /// The KMS needs no credentials.
    Anyone,
}

impl MeService {
    /// The service of a KMS whose operators have `credentials`, in the process `boot_id`.
    pub fn new(credentials: Arc<Credentials>, boot_id: String) -> Self {
        Self { credentials, boot_id }
    }

    /// The caller's credential.
    ///
    /// # Errors
    /// The caller has no role.
    pub fn me(&self, caller: &Caller) -> Result<Me> {
        let operator = caller.identity();
        let missing = || Error::internal("no operator", "caller is not identified");
        let operator = operator.ok_or_else(missing)?;
        let role = operator.role().ok_or_else(missing)?;
        let (kind, name) = match operator {
            Operator::Anyone => (Kind::Anyone, "anyone"),
            Operator::Token => (Kind::Token, "token"),
            Operator::User { name, .. } => (Kind::User, name.as_str()),
            Operator::Oidc { name, .. } => (Kind::Oidc, name.as_str()),
            Operator::Named { name, .. } | Operator::Invited { name, .. } => (Kind::Named, name.as_str()),
        };
        Ok(Me {
            name: name.to_owned(),
            role: Role::name(role),
            domain: operator.domain().map(ToString::to_string),
            kind,
            expires_at: self.credentials.expires_at(operator).map(rfc3339),
            server_time: rfc3339(unix_now()),
            boot_id: self.boot_id.clone(),
            version: env!("CVM_KMS_VERSION"),
        })
    }
}
