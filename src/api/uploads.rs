//! Files that owners upload. Each is checked whole before it replaces another by one rename.

mod collateral;
mod htpasswd;

use std::sync::Arc;

pub use self::collateral::CollateralFile;
pub use self::htpasswd::HtpasswdFile;
use super::Caller;
use super::policy::{Placed, PolicyService};
use crate::control::MAX_CANDIDATE;
use crate::error::{Error, Result};

/// The largest file.
pub const MAX_UPLOAD: usize = MAX_CANDIDATE;

/// A file that can be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadName {
    /// The allowlist.
    AuthConfig,
    /// Users with passwords.
    Htpasswd,
    /// Collateral.
    CollateralBundle,
}

/// Whether a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It is only checked.
    Check,
    /// It replaces the one in force.
    Replace,
}

impl UploadName {
    /// All names.
    pub const ALL: [Self; 3] = [Self::AuthConfig, Self::Htpasswd, Self::CollateralBundle];

    /// The name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthConfig => "auth-config",
            Self::Htpasswd => "htpasswd",
            Self::CollateralBundle => "collateral-bundle",
        }
    }

    /// The file with this name.
    ///
    /// # Errors
    /// `unknown_file`, with the names that exist.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("there is no such file; what can be uploaded is {names}"))
                .because("unknown_file")
        })
    }
}

/// Takes uploads.
#[derive(Debug)]
pub struct UploadService {
    policy: Arc<PolicyService>,
    htpasswd: Arc<HtpasswdFile>,
    collateral: Arc<CollateralFile>,
}

impl UploadService {
    /// Uploads for the parts of a KMS with keys.
    pub fn new(
        policy: Arc<PolicyService>,
        htpasswd: Arc<HtpasswdFile>,
        collateral: Arc<CollateralFile>,
    ) -> Self {
        Self { policy, htpasswd, collateral }
    }

    /// Checks a file, and puts it into its place if that is the intent.
    ///
    /// # Errors
    /// `other_domain`; `not_configured`, if nothing here uses such a file; `invalid_file`; a disk or an audit log that
    /// does not take it. Nothing has changed then.
    pub async fn upload(
        &self,
        caller: &Caller,
        name: UploadName,
        content: Vec<u8>,
        intent: Intent,
    ) -> Result<Placed> {
        caller.expect_whole_kms()?;
        match (name, intent) {
            (UploadName::AuthConfig, Intent::Check) => self.policy.examine(content).await,
            (UploadName::AuthConfig, Intent::Replace) => {
                Arc::clone(&self.policy).replace(caller, content).await
            }
            (UploadName::Htpasswd, intent) => {
                Arc::clone(&self.htpasswd).upload(caller, content, intent).await
            }
            (UploadName::CollateralBundle, intent) => {
                Arc::clone(&self.collateral).upload(caller.author(), content, intent).await
            }
        }
    }
}
