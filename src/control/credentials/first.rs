//! The owner that the first start creates: a named credential, or a user in a new htpasswd file.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kms_wire::role::Role;
use zeroize::Zeroizing;

use super::{Issued, OpenError, version};
use crate::clock::unix_now;
use crate::operator::named::{CredentialName, NamedCredential, Secret, SecretHash, Standing};
use crate::state::CredentialFile;

/// The cost of the hash in a new htpasswd file.
const COST: u32 = 12;

pub(super) enum FirstOwner {
    /// In the file of credentials.
    Named(Issued),
    /// In the htpasswd file that the configuration names and that is missing.
    User(FirstUser),
}

pub(super) struct FirstUser {
    name: CredentialName,
    password: Secret,
    /// The line of the file.
    pub(super) entry: String,
}

impl FirstOwner {
    /// What its holder has to know: a token, or `name:password`.
    pub(super) fn shown(&self) -> Zeroizing<String> {
        match self {
            Self::Named(issued) => issued.token.clone(),
            Self::User(user) => Zeroizing::new(format!("{}:{}", user.name, user.password.password())),
        }
    }
}

/// An owner of this name, for the file in which `file` says that it belongs.
pub(super) fn first_owner(name: &CredentialName, file: &CredentialFile) -> Result<FirstOwner, OpenError> {
    let secret = Secret::generate()?;
    if file.lacks_users() {
        let hash = bcrypt::hash_with_result(secret.password(), COST).map_err(OpenError::Hash)?;
        let entry = format!("{name}:{}\n", hash.format_for_version(bcrypt::Version::TwoY));
        return Ok(FirstOwner::User(FirstUser { name: name.clone(), password: secret, entry }));
    }
    let credential = NamedCredential {
        name: name.clone(),
        role: Role::Owner,
        domain: None,
        standing: Standing::Active(SecretHash::of(&secret)?),
        version: version()?,
        replaced: None,
        invitation: None,
        chosen_by: None,
        created_at: unix_now(),
        created_by: "the first start".to_owned(),
        expires_at: None,
        last_used: AtomicU64::new(0),
    };
    Ok(FirstOwner::Named(Issued { token: secret.token(name), credential: Arc::new(credential) }))
}
