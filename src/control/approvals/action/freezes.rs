//! Ends of freezes.

use serde::{Deserialize, Serialize};

use super::super::super::{Freeze, Scope, ScopeError};

/// Ends a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfreeze {
    /// The name of its scope.
    pub scope: String,
    /// The value of its scope.
    #[serde(with = "hex::serde")]
    pub value: Vec<u8>,
    /// Why it ends; may be empty.
    pub reason: String,
    /// The freeze that ends; another one of the same scope stays. `None` ends each.
    pub freeze: Option<SeenFreeze>,
}

impl Unfreeze {
    /// The scope.
    ///
    /// # Errors
    /// It is not one.
    pub fn scope(&self) -> Result<Scope, ScopeError> {
        Scope::parse(&self.scope, &self.value)
    }
}

/// What identifies a freeze among those of its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenFreeze {
    /// When it began, Unix seconds.
    pub since: u64,
    /// When it expires, Unix seconds.
    pub expires_at: Option<u64>,
    /// Its reason.
    pub reason: String,
    /// The operator.
    pub by: String,
}

impl From<&Freeze> for SeenFreeze {
    fn from(freeze: &Freeze) -> Self {
        Self {
            since: freeze.since,
            expires_at: freeze.expires_at,
            reason: freeze.reason.clone(),
            by: freeze.author.by.clone(),
        }
    }
}
