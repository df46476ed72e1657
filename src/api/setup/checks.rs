//! The pre-flight checks, their order, and their time limits.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::SetupService;
use super::calls::{self, Machine};
use super::finding::{Failure, Finding, Outcome};
use super::services::Kind;
use crate::error::{Code, Error, Result};

const RUNNING: Duration = Duration::from_secs(10);
/// How long a caller waits while another one runs the same check.
const QUEUEING: Duration = Duration::from_secs(5);
/// The shortest time between the starts of two checks of a kind, which limits the requests that they cause.
const PACE: Duration = Duration::from_millis(250);

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

/// The parameters of a check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct About {
    /// `source`: as in `Onboard`.
    pub source_url: Option<String>,
    /// `source`: which listener of the source the URL is.
    pub source_listener: Listener,
    /// `domain`: as in `Bootstrap` and `Onboard`.
    pub domain: Option<String>,
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

/// Runs one check of a kind at a time, no faster than [`PACE`].
#[derive(Debug, Default)]
pub(super) struct Turns([Mutex<Option<Instant>>; Check::ALL.len()]);

impl SetupService {
    /// Runs a check and reports the result. It changes nothing.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] if `about` lacks a parameter, [`Code::TooManyRequests`] if others keep
    /// running the same check.
    pub async fn validate(&self, check: Check, about: About) -> Result<Finding> {
        let missing = |field| Error::invalid(format!("{field} is missing from the request"));
        let turn = timeout(QUEUEING, self.turns.0[check as usize].lock()).await;
        let mut begun = turn.map_err(|_| {
            Error::new(Code::TooManyRequests, "others run this check all the time; try again later")
        })?;
        if let Some(before) = *begun {
            sleep_until(before + PACE).await;
        }
        let started = *begun.insert(Instant::now());
        let running = async {
            Ok(match check {
                Check::KeyDirectory => self.key_directory().await.into(),
                Check::Clock => self.machine().clock().await.into(),
                Check::Attester => self.machine().attester().await.into(),
                Check::Collateral => self.machine().collateral().await.into(),
                Check::Authorization => self.machine().authorization().await.into(),
                Check::Source => {
                    let url = about.source_url.ok_or_else(|| missing("source_url"))?;
                    self.source(&url, about.source_listener).await.into()
                }
                Check::Oidc => self.services.reach(Kind::Issuer).await.into(),
                Check::Witness => self.services.reach(Kind::Witness).await.into(),
                Check::State => self.services.state().await.into(),
                Check::Notify => self.services.reach(Kind::NotifyTarget).await.into(),
                Check::Domain => calls::domain(&about.domain.ok_or_else(|| missing("domain"))?).into(),
            })
        };
        let outcome = timeout(RUNNING, running).await.unwrap_or_else(|_| Ok(unended()))?;
        Ok(outcome.found(check.name(), started.elapsed()))
    }
}

fn unended() -> Outcome {
    Outcome::Failed(Failure::new(
        format!("no result within {} s", RUNNING.as_secs()),
        "Something is slow or unreachable; run the other checks to find out what.",
    ))
}

impl Machine<'_> {
    /// Runs the checks that need no KMS and write nothing, in their order.
    pub async fn examine(self) -> Vec<Finding> {
        vec![
            ended(Check::Clock, async { self.clock().await.into() }).await,
            ended(Check::Attester, async { self.attester().await.into() }).await,
            ended(Check::Collateral, async { self.collateral().await.into() }).await,
            ended(Check::Authorization, async { self.authorization().await.into() }).await,
        ]
    }
}

pub(super) async fn ended(check: Check, running: impl Future<Output = Outcome>) -> Finding {
    let started = Instant::now();
    let outcome = timeout(RUNNING, running).await.unwrap_or_else(|_| unended());
    outcome.found(check.name(), started.elapsed())
}
