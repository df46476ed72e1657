//! A check that an operator can run, and its time limit.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::finding::{Failure, Finding, Outcome};
use crate::error::{Code, Error, Result};

pub(super) const RUNNING: Duration = Duration::from_secs(10);

/// A check that an operator can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The key directory is writable.
    KeyDirectory,
    /// The clock shows a plausible time.
    Clock,
    /// This machine can produce evidence of what it runs.
    Attester,
    /// Intel's collateral for this machine is available.
    Collateral,
    /// The policy allows this KMS.
    Authorization,
    /// A running KMS can be onboarded from, as far as can be seen without requesting keys.
    Source,
    /// A name can be this KMS's domain.
    Domain,
    /// The issuer of operators' access tokens can be reached.
    Oidc,
    /// Each witness can be reached.
    Witness,
    /// Each target of notifications can be reached.
    Notify,
    /// The database of the state that the nodes share can be used.
    State,
}

impl Check {
    /// All checks, in the order in which an operator needs them.
    pub const ALL: [Self; 11] = [
        Self::KeyDirectory,
        Self::Clock,
        Self::Attester,
        Self::Collateral,
        Self::Authorization,
        Self::Source,
        Self::Domain,
        Self::Oidc,
        Self::Witness,
        Self::Notify,
        Self::State,
    ];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyDirectory => "key-directory",
            Self::Clock => "clock",
            Self::Attester => "attester",
            Self::Collateral => "collateral",
            Self::Authorization => "authorization",
            Self::Source => "source",
            Self::Domain => "domain",
            Self::Oidc => "oidc",
            Self::Witness => "witness",
            Self::Notify => "notify",
            Self::State => "state",
        }
    }

    /// The check with this name.
    ///
    /// # Errors
    /// [`Code::UnknownMethod`] with the known names.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|check| check.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|check| check.name()).collect();
            Error::new(Code::UnknownMethod, format!("no such check; there are: {}", names.join(", ")))
        })
    }
}

/// A listener of a running KMS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// Where CVMs request their keys.
    #[default]
    Main,
    /// For operators; it hands out no temporary CA.
    Admin,
}

pub(super) fn unended() -> Outcome {
    Outcome::Failed(Failure::new(
        format!("no result within {} s", RUNNING.as_secs()),
        "Something is slow or unreachable; run the other checks to find out what.",
    ))
}

pub(super) async fn ended(check: Check, running: impl Future<Output = Outcome>) -> Finding {
    let started = Instant::now();
    let outcome = timeout(RUNNING, running).await.unwrap_or_else(|_| unended());
    outcome.found(check.name(), started.elapsed())
}
