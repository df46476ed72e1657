//! The credentials of operators: who has which role, and until when.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_attest::identity::{BadDomainName, DomainName};
use kms_wire::role::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::Caller;
use super::approval_gate::ApprovalGate;
use crate::audit::Audit;
use crate::clock::unix_now;
use crate::control::{
    Approved, Changer, CredentialError, Domains, Issue, Issued, NamedCredentials, NewCredential,
    OwnerCredential, OwnerSecret, Reach,
};
use crate::error::{Code, Error, Result};
use crate::operator::Operator;
use crate::operator::chosen::ChosenSecret;
use crate::operator::named::{BadHash, CredentialName, Directory, NamedCredential, SecretHash, Standing};
use crate::request;

/// Manages the named credentials of one KMS.
#[derive(Debug)]
pub struct CredentialService {
    credentials: Arc<NamedCredentials>,
    domains: Arc<Domains>,
    audit: Arc<Audit>,
    gate: ApprovalGate,
}

/// The body of `POST /api/v1/credentials`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    name: String,
    role: String,
    /// The domain to which it is limited; null for the whole KMS.
    #[serde(default)]
    domain: Option<String>,
    /// Unix seconds.
    #[serde(default)]
    expires_at: Option<u64>,
    /// Respond with an invitation instead of a token.
    #[serde(default)]
    invite: bool,
}

/// A credential as owners see it. Times are Unix seconds.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    name: String,
    role: &'static str,
    /// The domain to which it is limited; null for the whole KMS.
    domain: Option<String>,
    state: State,
    created_at: u64,
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_until: Option<u64>,
    /// The secret before the last rotation is valid until the new one is used, at most until this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_secret_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<u64>,
    /// Only in the response that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// The response to a revocation that is in force.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Revoked {
    revoked: bool,
    /// Whether the nodes that share their state know of it; null without others.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
    /// What is still to happen, if they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The user whose secret was set.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BasicAuth {
    user: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    Active,
    Invited,
    Ended,
}

impl CredentialService {
    /// The service over the credentials of a KMS.
    pub fn new(
        credentials: Arc<NamedCredentials>,
        domains: Arc<Domains>,
        audit: Arc<Audit>,
        gate: ApprovalGate,
    ) -> Self {
        Self { credentials, domains, audit, gate }
    }

    /// A domain of this KMS to which `changer` may limit credentials: it learns of no other one.
    fn domain(&self, text: &str, changer: &Changer) -> Result<DomainName> {
        let name: DomainName =
            text.parse().map_err(|error: BadDomainName| Error::invalid(error.to_string()))?;
        changer.expect_covers(Some(&name)).map_err(failed)?;
        match self.domains.named(&name) {
            Some(domain) => Ok(domain.name.clone()),
            None => Err(Error::invalid(no_domain(&name, &self.domains))),
        }
    }

    /// All credentials as they are known.
    pub(super) fn directory(&self) -> Arc<Directory> {
        self.credentials.list()
    }

    /// The credentials that the caller may change, by name, without secrets.
    pub fn list(&self, caller: &Caller) -> Vec<Shown> {
        let now = unix_now();
        let own = caller.identity().and_then(Operator::domain);
        let directory = self.credentials.list();
        let visible = directory.values().filter(|it| own.is_none() || it.domain.as_ref() == own);
        visible.map(|credential| Shown::of(credential, now)).collect()
    }

    /// Creates a credential.
    ///
    /// # Errors
    /// A request that cannot be read or carried out; an audit log or file that cannot be written.
    pub async fn create(&self, caller: &Caller, request: CreateRequest) -> Result<Shown> {
        let changer = caller.changer()?;
        let new = NewCredential {
            name: name(&request.name)?,
            role: request.role.parse().map_err(|error| Error::invalid(format!("{error}")))?,
            domain: request.domain.as_deref().map(|text| self.domain(text, &changer)).transpose()?,
            expires_at: request.expires_at,
            issue: if request.invite { Issue::Invitation } else { Issue::Secret },
        };
        self.credentials.expect_free(&new, &changer).map_err(failed)?;
        if new.role == Role::Owner {
            let approved = self.gate.pass(caller, OwnerCredential::create(&new)).await?;
            return self.create_as(new, approved.into_changer()).await.map(Shown::new);
        }
        self.create_as(new, changer).await.map(Shown::new)
    }

    /// Replaces the secret of a credential.
    ///
    /// # Errors
    /// As [`CredentialService::create`].
    pub async fn rotate(&self, caller: &Caller, credential: &str) -> Result<Shown> {
        let credential = name(credential)?;
        self.credentials.look_for(&credential).await;
        self.expect_covered(caller, &credential)?;
        let changer = match self.owner(&credential) {
            Some(created_at) => {
                let rotate = OwnerCredential::Rotate { name: credential.to_string(), created_at };
                self.gate.pass(caller, rotate).await?.into_changer()
            }
            None => caller.changer()?,
        };
        self.rotate_as(credential, Issue::Secret, changer).await.map(Shown::new)
    }

    /// Revokes a credential.
    ///
    /// # Errors
    /// As [`CredentialService::create`]; also if it is revoked in memory, but not on the disk.
    pub async fn revoke(&self, caller: &Caller, credential: &str) -> Result<Revoked> {
        let credential = name(credential)?;
        self.credentials.look_for(&credential).await;
        self.expect_covered(caller, &credential)?;
        let changer = match self.owner(&credential) {
            Some(created_at) => {
                let revoke = OwnerCredential::Revoke { name: credential.to_string(), created_at };
                self.gate.pass(caller, revoke).await?.into_changer()
            }
            None => caller.changer()?,
        };
        self.revoke_as(credential, changer).await.map(Revoked::of)
    }

    /// Makes a change that a second owner has approved. Returns what was done, and the invitation of the credential, if it got one:
    /// nobody but its holder is to know it whole.
    pub(super) async fn change_owner(
        &self,
        approved: Approved<OwnerCredential>,
    ) -> Result<(String, Option<Zeroizing<String>>)> {
        let change = approved.action().clone();
        let changer = approved.into_changer();
        match change {
            OwnerCredential::Create { name: owner, domain: limit, expires_at } => {
                let (name, issue) = (name(&owner)?, Issue::Invitation);
                let domain = limit.as_deref().map(|text| self.domain(text, &changer)).transpose()?;
                let new = NewCredential { name, role: Role::Owner, domain, expires_at, issue };
                let issued = self.create_as(new, changer).await?;
                Ok((format!("{owner} is invited as an owner"), Some(issued.token)))
            }
            OwnerCredential::Rotate { name: owner, .. } => {
                let issued = self.rotate_as(name(&owner)?, Issue::Invitation, changer).await?;
                Ok((format!("{owner} is invited to have another secret"), Some(issued.token)))
            }
            OwnerCredential::Revoke { name: owner, .. } => {
                let revoked = Revoked::of(self.revoke_as(name(&owner)?, changer).await?);
                let note = revoked.note.map(|note| format!(": {note}")).unwrap_or_default();
                Ok((format!("{owner} is revoked{note}"), None))
            }
            OwnerCredential::SetSecret { name: owner, hash, created_at } => {
                let bad = |error: BadHash| Error::internal("internal error", error);
                let secret =
                    OwnerSecret { name: name(&owner)?, hash: hash.parse().map_err(bad)?, created_at };
                self.set_secret_as(secret, changer).await?;
                Ok((format!("{owner} has the new secret"), None))
            }
        }
    }

    /// When the credential was created, if it is an owner's.
    fn owner(&self, name: &CredentialName) -> Option<u64> {
        let directory = self.credentials.list();
        let credential = directory.get(name).filter(|credential| credential.role == Role::Owner)?;
        Some(credential.created_at)
    }

    async fn create_as(&self, new: NewCredential, changer: Changer) -> Result<Issued> {
        let (credentials, audit) = (Arc::clone(&self.credentials), Arc::clone(&self.audit));
        done(request::spawn(async move { credentials.create(new, changer, &audit).await })).await
    }

    async fn rotate_as(&self, name: CredentialName, issue: Issue, changer: Changer) -> Result<Issued> {
        let (credentials, audit) = (Arc::clone(&self.credentials), Arc::clone(&self.audit));
        done(request::spawn(async move { credentials.rotate(name, issue, changer, &audit).await })).await
    }

    async fn revoke_as(&self, name: CredentialName, changer: Changer) -> Result<Reach> {
        let (credentials, audit) = (Arc::clone(&self.credentials), Arc::clone(&self.audit));
        done(request::spawn(async move { credentials.revoke(name, changer, &audit).await })).await
    }

    /// Sets the secret of the owner `admin`, for `--user admin:SECRET`.
    ///
    /// # Errors
    /// A weak secret; as [`CredentialService::create`].
    pub async fn set_basic_auth(&self, caller: &Caller, secret: &[u8]) -> Result<BasicAuth> {
        let secret = ChosenSecret::parse(secret).map_err(|weak| Error::invalid(weak.to_string()))?;
        let changer = caller.changer()?;
        let hashed =
            tokio::task::spawn_blocking(move || SecretHash::of_chosen(&secret).map(|hash| (hash, secret)));
        let hashed = hashed.await.map_err(|error| Error::internal("internal error", error))?;
        let (hash, secret) =
            hashed.map_err(|error| Error::unavailable("the secret cannot be hashed", error))?;
        let set = self.credentials.owner_secret(hash, &changer).map_err(failed)?;
        // Its holder may show it before it counts, which can take until another owner approves it.
        self.credentials.exempt_wrong(&set.name, &secret);
        let approved = self.gate.pass(caller, OwnerCredential::set_secret(&set)).await?;
        let user = set.name.to_string();
        self.set_secret_as(set, approved.into_changer()).await?;
        Ok(BasicAuth { user })
    }

    async fn set_secret_as(&self, secret: OwnerSecret, changer: Changer) -> Result<()> {
        let (credentials, audit) = (Arc::clone(&self.credentials), Arc::clone(&self.audit));
        done(request::spawn(async move { credentials.set_secret(secret, changer, &audit).await })).await
    }

    /// Checks that the caller's domain has the credential, before anybody is asked to approve its change.
    fn expect_covered(&self, caller: &Caller, name: &CredentialName) -> Result<()> {
        let changer = caller.changer()?;
        let directory = self.credentials.list();
        let Some(credential) = directory.get(name) else { return Ok(()) };
        changer.expect_covers(credential.domain.as_ref()).map_err(failed)
    }

    /// Exchanges the caller's invitation for a secret.
    ///
    /// # Errors
    /// The caller has no invitation, or one that is no longer valid.
    pub async fn activate(&self, caller: &Caller) -> Result<Shown> {
        let (credentials, audit) = (Arc::clone(&self.credentials), Arc::clone(&self.audit));
        let changer = caller.changer()?;
        let activated = request::spawn(async move { credentials.activate(changer, &audit).await });
        done(activated).await.map(Shown::new)
    }
}

impl Revoked {
    fn of(reach: Reach) -> Self {
        let (shared, note) = match reach {
            Reach::ThisMachine => (None, None),
            Reach::Fleet => (Some(true), None),
            Reach::NotYet(why) => {
                tracing::warn!(%why, "a credential is revoked here, and not on the other nodes yet");
                (
                    Some(false),
                    Some(format!(
                        "the credential does not count on this node any more, but other nodes may not know yet: {why}; it is written as \
                         soon as possible, but one that was made again under this name on another node stays, and so do the last owners"
                    )),
                )
            }
        };
        Self { revoked: true, shared, note }
    }
}

impl Shown {
    /// With the token of its holder.
    fn new(issued: Issued) -> Self {
        let Issued { credential, token } = issued;
        Self { token: Some(token.as_str().to_owned()), ..Self::of(&credential, unix_now()) }
    }

    fn of(credential: &NamedCredential, now: u64) -> Self {
        let last_used = credential.last_used.load(Ordering::Relaxed);
        let (state, invited_until) = match credential.standing {
            _ if credential.has_ended(now) => (State::Ended, None),
            Standing::Active(_) => (State::Active, credential.invitation(now).map(|it| it.until)),
            Standing::Invited { until, .. } => (State::Invited, Some(until)),
        };
        Self {
            name: credential.name.to_string(),
            role: Role::name(credential.role),
            domain: credential.domain.as_ref().map(ToString::to_string),
            state,
            created_at: credential.created_at,
            created_by: credential.created_by.clone(),
            expires_at: credential.expires_at,
            invited_until,
            old_secret_until: credential.replaced(now).map(|old| old.until),
            last_used: (last_used > 0).then_some(last_used),
            token: None,
        }
    }
}

/// Waits for a change, which is a task of its own: it completes even if the client disconnects.
async fn done<T>(change: JoinHandle<std::result::Result<T, CredentialError>>) -> Result<T> {
    match change.await {
        Ok(outcome) => outcome.map_err(failed),
        Err(error) => Err(Error::internal("the change ended in a panic", error)),
    }
}

fn no_domain(name: &DomainName, domains: &Domains) -> String {
    let known: Vec<_> = domains.list().iter().map(|domain| domain.name.to_string()).collect();
    match &known[..] {
        [only] => format!("this KMS has no domain {name}; its only domain is {only}"),
        all => format!("this KMS has no domain {name}; its domains are {}", all.join(", ")),
    }
}

fn name(text: &str) -> Result<CredentialName> {
    text.parse().map_err(|error| Error::invalid(format!("{error}")))
}

/// Owners see the cause: they are authenticated, and it contains no path.
fn failed(error: CredentialError) -> Error {
    let code = match error {
        CredentialError::Unknown(_)
        | CredentialError::Exists(_)
        | CredentialError::IsUser(_)
        | CredentialError::Full
        | CredentialError::ShareFull(_)
        | CredentialError::LastOwner(_)
        | CredentialError::LastTwoOwners(_)
        | CredentialError::LastTwo(_)
        | CredentialError::WasOwner(_)
        | CredentialError::OfOwner
        | CredentialError::NotOwner(_)
        | CredentialError::Ended { .. } => Code::InvalidRequest,
        CredentialError::NotInvited | CredentialError::OtherDomain(_) => Code::Denied,
        CredentialError::NotLive => Code::Unauthenticated,
        CredentialError::Random(_)
        | CredentialError::NotRecorded(_)
        | CredentialError::NotKept(_)
        | CredentialError::RevokedNotKept(_)
        | CredentialError::RevokedNotRecorded(_)
        | CredentialError::NotShared(_)
        | CredentialError::Panicked => Code::Unavailable,
    };
    Error::new(code, error.to_string()).caused_by(error)
}
