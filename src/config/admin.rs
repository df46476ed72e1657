//! The credentials for the admin listener, from `[core.admin]`.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::file::{FileError, read_file};
use super::{Admin, Core};
use crate::domain::ReservedName;
use crate::operator::{BadHtpasswd, Credentials, OperatorToken, Users};

/// Why the credentials for the admin listener are unusable.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file with users cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file with users is malformed.
    #[error("core.admin.htpasswd_file: {0}")]
    Htpasswd(#[from] BadHtpasswd),
}

impl Admin {
    /// The token of the admin listener, if there is one.
    pub fn token(&self) -> Option<OperatorToken> {
        self.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()))
    }

    /// The credentials for the admin listener; `None` without such a listener.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn credentials(&self) -> Result<Option<Credentials>, CredentialsError> {
        if !self.enabled {
            return Ok(None);
        }
        let token = self.token();
        let users = match &self.htpasswd_file {
            Some(path) => match read_file("core.admin.htpasswd_file", path) {
                Ok(bytes) => Some(Users::read(&bytes)?),
                // The first start makes it, if there is no other owner.
                Err(missing) if missing.is_missing() && token.is_none() => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        if users.as_ref().is_some_and(Users::is_empty) {
            return Err(BadHtpasswd::NoUsers.into());
        }
        let users = ArcSwap::from_pointee(users.unwrap_or_default());
        // Without either, the configuration was refused unless it says so.
        Ok(Some(match (&token, &self.htpasswd_file, self.insecure_no_auth) {
            (None, None, true) => Credentials::NoneNeeded,
            (Some(_), _, _) | (_, Some(_), _) | (_, _, false) => {
                Credentials::Needed { token, users, named: Arc::default() }
            }
        }))
    }

    /// Names under which clients that trust our root look for the admin listener.
    fn names(&self) -> Vec<ReservedName> {
        let Some(tls) = self.tls.as_ref().filter(|_| self.enabled) else { return Vec::new() };
        let is_own = !self.address.is_unspecified() && !self.address.is_loopback();
        let mut names = tls.hosts.clone();
        names.extend(is_own.then(|| ReservedName::from(self.address)));
        names
    }
}

impl Core {
    /// Names and addresses that no app's certificate may carry.
    pub fn reserved_names(&self) -> Vec<ReservedName> {
        [self.reserved_domains.clone(), self.admin.names()].concat()
    }
}
