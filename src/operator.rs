//! How operators prove who they are: the token of the configuration, a user of an htpasswd file, or a named credential.

pub mod chosen;
pub mod named;
pub mod oidc;
mod person;
pub mod scope;
mod users;
pub mod wrong;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use http::{HeaderMap, header};
use kms_attest::identity::DomainName;
use kms_wire::role::Role;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use self::named::{Directory, Named, NamedCredential, Standing};
pub use self::person::Person;
pub use self::scope::DomainScope;
pub use self::users::{BadHtpasswd, UserChanges, Users};

/// SHA-256 of the operator's token: all comparisons are over digests, in constant time.
pub struct OperatorToken([u8; 32]);

impl OperatorToken {
    /// From the token itself.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// From its SHA-256 (`core.admin_token_hash`).
    pub fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Whether `candidate` is the token.
    pub fn is(&self, candidate: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(candidate.as_bytes()).into();
        self.0.ct_eq(&digest).into()
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorToken").finish_non_exhaustive()
    }
}

/// The operator that a request's credentials identify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Anyone, because no credentials are needed.
    Anyone,
    /// A holder of the token.
    Token,
    /// A user of the htpasswd file.
    User {
        /// The user's name.
        name: String,
        /// Of which file: the operator is nobody once another file is in force.
        generation: u64,
    },
    /// The holder of a named credential.
    Named {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// The domain to which it is limited; `None` for the whole KMS.
        domain: Option<DomainName>,
        /// Which secret was shown: the operator is nobody once it is no longer valid.
        version: u64,
    },
    /// The holder of an access token of OpenID Connect.
    Oidc {
        /// Who it is for the issuer.
        subject: String,
        /// The same for people.
        name: String,
        /// What the holder may do; `None` if no group has a role.
        role: Option<Role>,
        /// The end of the token, Unix seconds.
        expires_at: u64,
    },
    /// The holder of an invitation, who may only exchange it for a credential.
    Invited {
        /// The name of the credential.
        name: String,
        /// The domain to which the credential is limited.
        domain: Option<DomainName>,
        /// Which invitation was shown.
        version: u64,
    },
}

impl Operator {
    /// What this operator may do. The token and users of the htpasswd file are owners.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Anyone | Self::Token | Self::User { .. } => Some(Role::Owner),
            Self::Named { role, .. } => Some(*role),
            Self::Oidc { role, .. } => *role,
            Self::Invited { .. } => None,
        }
    }

    /// The domain to which this operator is limited; `None` for the whole KMS.
    pub fn domain(&self) -> Option<&DomainName> {
        match self {
            Self::Anyone | Self::Token | Self::User { .. } | Self::Oidc { .. } => None,
            Self::Named { domain, .. } | Self::Invited { domain, .. } => domain.as_ref(),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Token => f.write_str("token"),
            Self::User { name, .. } => write!(f, "user {name}"),
            Self::Oidc { name, .. } => write!(f, "oidc:{name}"),
            Self::Named { name, .. } | Self::Invited { name, .. } => write!(f, "credential {name}"),
        }
    }
}

/// Who may use the admin listener.
#[derive(Debug)]
pub enum Credentials {
    /// `core.admin.insecure_no_auth = true`.
    NoneNeeded,
    /// A token, users with bcrypt hashes, named credentials, or several of these.
    Needed {
        /// `core.admin.auth_token` or its environment variables.
        token: Option<OperatorToken>,
        /// `core.admin.htpasswd_file`.
        users: ArcSwap<Users>,
        /// `core.admin.credentials_file`.
        named: Arc<Named>,
    },
}

/// The credentials in the headers, as far as they can be checked without hashing a password.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// No credentials.
    Nothing,
    /// The token, or nothing where no credentials are needed.
    Right(Operator),
    /// Neither the token nor a user's name and password.
    Wrong,
    /// What looks like an access token of OpenID Connect, and may be of nobody.
    Token(AccessToken),
    /// A name and a password: [`Credentials::admits`] decides, which takes the computation of a hash.
    Password(Password),
}

/// What looks like an access token. Its `Debug` does not print it.
#[derive(PartialEq, Eq)]
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// The token.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").finish_non_exhaustive()
    }
}

/// A name and a password that may be wrong. Its `Debug` prints neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    user: String,
    password: Zeroizing<String>,
}

impl Password {
    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Name and password in one unambiguous text, because a name contains no colon.
    pub fn joined(&self) -> Zeroizing<String> {
        joined(&self.user, &self.password)
    }
}

fn joined(user: &str, password: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{user}:{password}"))
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").finish_non_exhaustive()
    }
}

/// Longer credentials are refused.
const MAX_HEADER: usize = oidc::MAX_TOKEN + 64;

impl Credentials {
    /// The credentials in these headers: `X-Admin-Token`, then `Authorization` (`Bearer`; or `Basic` with a
    /// user of the file, with the token as password, or with the token as user name and an empty password).
    /// Hashes no password.
    pub fn shown(&self, headers: &HeaderMap) -> Shown {
        let Self::Needed { token, users, named } = self else { return Shown::Right(Operator::Anyone) };
        if !headers.contains_key("x-admin-token") && !headers.contains_key(header::AUTHORIZATION) {
            return Shown::Nothing;
        }
        // An intermediary could have read another one of two.
        let is_ambiguous = |name: &str| headers.get_all(name).iter().nth(1).is_some();
        if is_ambiguous("x-admin-token") || is_ambiguous(header::AUTHORIZATION.as_str()) {
            return Shown::Wrong;
        }
        let is_token = |candidate: &str| token.as_ref().is_some_and(|token| token.is(candidate));
        let text = |name: &str| {
            let value = headers.get(name).filter(|value| value.len() <= MAX_HEADER)?;
            value.to_str().ok()
        };
        let of_name = |token: &str| {
            let (user, secret) = named::parts_of_token(token)?;
            Some(Shown::Password(Password {
                user: user.to_owned(),
                password: Zeroizing::new(secret.to_owned()),
            }))
        };
        if let Some(candidate) = text("x-admin-token") {
            if is_token(candidate) {
                return Shown::Right(Operator::Token);
            }
            if let Some(shown) = of_name(candidate) {
                return shown;
            }
        }
        let authorization = text(header::AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '));
        let Some((scheme, rest)) = authorization else { return Shown::Wrong };
        if scheme.eq_ignore_ascii_case("bearer") {
            let candidate = rest.trim();
            return match is_token(candidate) {
                true => Shown::Right(Operator::Token),
                false => of_name(candidate).unwrap_or_else(|| of_issuer(candidate)),
            };
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Shown::Wrong;
        }
        let Some(shown) = basic(rest.trim()) else { return Shown::Wrong };
        if is_token(&shown.password) || (shown.password.is_empty() && is_token(&shown.user)) {
            return Shown::Right(Operator::Token);
        }
        if let Some(named) = of_name(&shown.password) {
            return named;
        }
        if users.load().is_empty() && named.is_empty() { Shown::Wrong } else { Shown::Password(shown) }
    }

    /// By which clock credentials expire, in Unix seconds.
    pub fn now(&self) -> u64 {
        match self {
            Self::NoneNeeded => crate::clock::unix_now(),
            Self::Needed { named, .. } => named.now(),
        }
    }

    /// See [`Users::slow`].
    pub fn slow_users(&self) -> Vec<(String, u32)> {
        match self {
            Self::NoneNeeded => Vec::new(),
            Self::Needed { users, .. } => {
                users.load().slow().map(|(user, cost)| (user.to_owned(), cost)).collect()
            }
        }
    }

    /// Puts other users in force. Nothing that is remembered of earlier ones counts.
    pub fn set_users(&self, changed: Users) {
        if let Self::Needed { users, named, .. } = self {
            let generation = users.load().generation + 1;
            users.store(Arc::new(changed.of_generation(generation)));
            // After that: what is compared with the earlier users is not noted any more.
            named.wrong().forget();
            named.notify();
        }
    }

    /// The named credentials; `None` where no credentials are needed.
    pub fn named(&self) -> Option<&Arc<Named>> {
        match self {
            Self::NoneNeeded => None,
            Self::Needed { named, .. } => Some(named),
        }
    }

    /// Whether the htpasswd file has an entry for `name`.
    pub fn has_user(&self, name: &str) -> bool {
        match self {
            Self::NoneNeeded => false,
            Self::Needed { users, .. } => users.load().has(name),
        }
    }

    /// The version of the secret of a named credential or user that this password is; `None` if it is wrong. The same hashes
    /// are computed for each name: where there are both kinds, those of both.
    pub fn admits(&self, shown: &Password) -> Option<u64> {
        let Self::Needed { users, named, .. } = self else { return Some(0) };
        let (users, now) = (users.load(), named.now());
        let by_name = match named.is_empty() {
            true => None,
            false => named.admits(&shown.user, &shown.password, now),
        };
        let by_user = users.admits(shown);
        match named.get(&shown.user, now) {
            Some(_) => by_name,
            None => by_user.then_some(users.generation),
        }
    }

    /// The operator of this name, whose password was right when `version` was valid; `None` if it has changed.
    pub fn operator(&self, user: &str, version: u64) -> Option<Operator> {
        let Self::Needed { users, named, .. } = self else { return Some(Operator::Anyone) };
        let (users, now) = (users.load(), named.now());
        let Some(credential) = named.get(user, now) else {
            let is_user = version == users.generation && users.has(user);
            return is_user.then(|| Operator::User { name: user.to_owned(), generation: version });
        };
        let operator = of_version(&credential, version, now)?;
        named.used(&credential, version, now);
        Some(operator)
    }

    /// Whether the secret with which `operator` was identified is still valid, for the same role. A request may wait or run for
    /// long after that.
    pub fn is_live(&self, operator: &Operator) -> bool {
        self.named().is_none_or(|named| self.is_live_in(operator, &named.current()))
    }

    /// Whether it would still be valid if these were the named credentials.
    pub fn is_live_in(&self, operator: &Operator, directory: &Directory) -> bool {
        let Self::Needed { users, named, .. } = self else { return true };
        let now = named.now();
        match operator {
            // The configuration does not change while this process runs, except for users.
            Operator::Anyone | Operator::Token => true,
            Operator::Oidc { expires_at, .. } => now < *expires_at,
            Operator::User { name, generation } => {
                let users = users.load();
                *generation == users.generation
                    && users.has(name)
                    && named::counting(directory, name, now).is_none()
            }
            Operator::Named { name, version, .. } | Operator::Invited { name, version, .. } => {
                let credential = named::counting(directory, name, now);
                credential.and_then(|credential| of_version(credential, *version, now)).as_ref()
                    == Some(operator)
            }
        }
    }

    /// Resolves once the secret with which `operator` was identified is no longer valid.
    pub async fn ended(&self, operator: &Operator) {
        let Self::Needed { named, .. } = self else { return std::future::pending().await };
        let mut changes = named.changes();
        while self.is_live(operator) {
            let end = self.expires_at(operator).map(|end| end.saturating_sub(named.now()));
            let look_again = Duration::from_secs(end.unwrap_or(LOOK_AGAIN).clamp(1, LOOK_AGAIN));
            let _ = tokio::time::timeout(look_again, changes.changed()).await;
        }
    }

    /// When the credential of `operator` ends, in Unix seconds; `None` if it does not expire.
    pub fn expires_at(&self, operator: &Operator) -> Option<u64> {
        match operator {
            Operator::Anyone | Operator::Token | Operator::User { .. } => None,
            Operator::Oidc { expires_at, .. } => Some(*expires_at),
            Operator::Named { name, .. } | Operator::Invited { name, .. } => {
                let named = self.named()?;
                named.get(name, named.now())?.expires_at
            }
        }
    }

    /// The versions of the valid secrets of this name, the one issued last first. What is remembered of other versions is void.
    pub fn versions(&self, user: &str) -> Vec<u64> {
        let Self::Needed { users, named, .. } = self else { return vec![0] };
        let now = named.now();
        match named.get(user, now) {
            Some(credential) => credential.versions(now).collect(),
            None => vec![users.load().generation],
        }
    }
}

/// How often, in seconds, it is looked whether a credential has ended by time.
const LOOK_AGAIN: u64 = 15;

/// The holder of the secret of this version; `None` if it is not valid at `now`.
fn of_version(credential: &NamedCredential, version: u64, now: u64) -> Option<Operator> {
    let (name, domain) = (credential.name.to_string(), credential.domain.clone());
    let counts = credential.versions(now).any(|counting| counting == version);
    let is_invitation = credential.invitation(now).is_some_and(|invitation| invitation.version == version);
    counts.then_some(match credential.standing {
        Standing::Active(_) if !is_invitation => {
            Operator::Named { name, role: credential.role, domain, version }
        }
        Standing::Active(_) | Standing::Invited { .. } => Operator::Invited { name, domain, version },
    })
}

#[cfg(test)]
thread_local! {
    /// How many hashes of passwords this thread has computed.
    static HASHES: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
fn count_hash() {
    HASHES.set(HASHES.get() + 1);
}

fn of_issuer(candidate: &str) -> Shown {
    match oidc::looks_like_token(candidate) {
        true => Shown::Token(AccessToken(Zeroizing::new(candidate.to_owned()))),
        false => Shown::Wrong,
    }
}

fn basic(encoded: &str) -> Option<Password> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = Zeroizing::new(String::from_utf8(bytes).ok()?);
    let (user, password) = text.split_once(':')?;
    Some(Password { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
mod tests;
