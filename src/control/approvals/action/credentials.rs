//! Changes of the credentials of owners.

use serde::{Deserialize, Serialize};

use super::super::super::{NewCredential, OwnerSecret};
use crate::operator::UserChanges;

/// Replaces the users of the htpasswd file, who are owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceHtpasswd {
    /// The new file: names and bcrypt hashes.
    pub document: String,
    /// SHA-256 of the file that it replaces, hex.
    pub replaces: Option<String>,
    /// In which users it differs from that.
    #[serde(default)]
    pub changes: UserChanges,
}

/// Changes a credential of an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum OwnerCredential {
    /// Creates it.
    Create {
        /// Its name.
        name: String,
        /// The domain to which it is limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// Its end, Unix seconds.
        expires_at: Option<u64>,
    },
    /// Replaces its secret.
    Rotate {
        /// Its name.
        name: String,
        /// When it was created, Unix seconds: a later one of the same name stays as it is.
        created_at: u64,
    },
    /// Revokes it.
    Revoke {
        /// Its name.
        name: String,
        /// As above.
        created_at: u64,
    },
    /// Sets a secret that the requester has chosen, and creates the credential if there is none.
    SetSecret {
        /// Its name.
        name: String,
        /// Argon2id hash of the secret, PHC form.
        hash: String,
        /// As above, if there is one.
        created_at: Option<u64>,
    },
}

impl OwnerCredential {
    /// The creation of `new`.
    pub fn create(new: &NewCredential) -> Self {
        Self::Create {
            name: new.name.to_string(),
            domain: new.domain.as_ref().map(ToString::to_string),
            expires_at: new.expires_at,
        }
    }

    /// A secret that the requester has chosen.
    pub fn set_secret(secret: &OwnerSecret) -> Self {
        let OwnerSecret { name, hash, created_at } = secret;
        Self::SetSecret { name: name.to_string(), hash: hash.as_str().to_owned(), created_at: *created_at }
    }
}
