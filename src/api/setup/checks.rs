//! The pre-flight checks in their order.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::SetupService;
use super::calls::{self, Machine};
use super::check::{Check, Listener, RUNNING, ended, unended};
use super::finding::Finding;
use super::services::Kind;
use crate::error::{Code, Error, Result};

/// How long a caller waits while another one runs the same check.
const QUEUEING: Duration = Duration::from_secs(5);
/// The shortest time between the starts of two checks of a kind, which limits the requests that they cause.
const PACE: Duration = Duration::from_millis(250);

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
