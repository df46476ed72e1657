//! A warning ahead: platforms seen lately that Intel's early TCB set judges worse than the standard one does today.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kms_attest::{
    tcb::{Ahead, Forecast, Outlook, PlatformTcb, TcbStatus, TcbVerdict},
    verify::Verifier,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::TcbTolerance;
use crate::metrics::{Metrics, OutlookState};

/// How long platforms are watched after they were last seen.
pub const WATCHED_FOR: Duration = Duration::from_secs(14 * 86_400);
/// Time before the first look: so that the platforms of a fleet that comes back are known by then.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// How often the same is said again.
const REMINDER: Duration = Duration::from_secs(86_400);

/// Looks at Intel's early TCB set now and then.
#[derive(Debug)]
pub struct TcbWatch {
    verifier: Arc<Verifier>,
    tolerance: Arc<TcbTolerance>,
    metrics: Arc<Metrics>,
    every: Duration,
}

/// What there is to say about a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Warning {
    today: String,
    ahead: String,
    advisories: Vec<String>,
    /// Unix seconds of the TCB recovery; `None` where the early set does not tell.
    recovery: Option<u64>,
    /// Unix seconds up to which `core.tcb` tolerates it.
    tolerated_until: Option<u64>,
}

impl TcbWatch {
    /// Looks `every` so often at what comes to the platforms that `verifier` remembers.
    pub fn new(
        verifier: Arc<Verifier>,
        tolerance: Arc<TcbTolerance>,
        metrics: Arc<Metrics>,
        every: Duration,
    ) -> Self {
        Self { verifier, tolerance, metrics, every }
    }

    /// Looks until dropped.
    pub async fn keep_looking(&self) {
        let mut told: HashMap<PlatformTcb, (Warning, Instant)> = HashMap::new();
        tokio::time::sleep(self.every.min(FIRST_LOOK)).await;
        loop {
            let outlook = self.verifier.outlook().await;
            let warnings = self.warnings(&outlook);
            self.metrics.set_outlook(OutlookState {
                falling_behind: warnings.len() as u64,
                recovery: warnings.iter().filter_map(|(_, warning)| warning.recovery).min(),
                newer: outlook.early_sets.newer as u64,
                same: outlook.early_sets.same as u64,
                unavailable: outlook.early_sets.unavailable as u64,
            });
            told.retain(|platform, _| warnings.iter().any(|(warned, _)| warned == platform));
            for (platform, warning) in warnings {
                let known = told.get(&platform);
                if known.is_some_and(|(known, at)| *known == warning && at.elapsed() < REMINDER) {
                    continue;
                }
                warning.tell(&platform);
                told.insert(platform, (warning, Instant::now()));
            }
            tokio::time::sleep(self.every).await;
        }
    }

    fn warnings(&self, outlook: &Outlook) -> Vec<(PlatformTcb, Warning)> {
        let warning = |forecast: &Forecast| Some((forecast.platform, self.warning(forecast)?));
        outlook.forecasts.iter().filter_map(warning).collect()
    }

    /// `None` if the early set judges no worse.
    fn warning(&self, forecast: &Forecast) -> Option<Warning> {
        let today = &forecast.today;
        let (ahead, verdict) = match &forecast.ahead {
            Ahead::Verdict(verdict) if is_worse(verdict, today) => {
                (verdict.status.to_string(), Some(verdict))
            }
            Ahead::Verdict(_) => return None,
            Ahead::Refused(reason) => (format!("refused: {reason}"), None),
        };
        let new = |advisory: &&String| {
            !today.advisory_ids.contains(advisory) && !self.tolerance.has_advisory(advisory)
        };
        let advisories = verdict.map(|verdict| verdict.advisory_ids.iter().filter(new).cloned().collect());
        Some(Warning {
            today: today.status.to_string(),
            ahead,
            advisories: advisories.unwrap_or_default(),
            recovery: verdict.and_then(|verdict| verdict.lag.as_ref()).map(|lag| lag.since()),
            tolerated_until: verdict.and_then(|verdict| self.tolerance.grace_ends(verdict)),
        })
    }
}

impl Warning {
    fn tell(&self, platform: &PlatformTcb) {
        tracing::warn!(
            fmspc = hex::encode(platform.model.fmspc),
            cpu_svn = hex::encode(platform.cpu_svn),
            pce_svn = platform.pce_svn,
            tee_tcb_svn = hex::encode(platform.tee_tcb_svn),
            qe_isv_svn = platform.qe_isv_svn,
            today = self.today,
            ahead = self.ahead,
            advisories = self.advisories.join(", "),
            recovery = self.recovery.and_then(date),
            tolerated_until = self.tolerated_until.and_then(date),
            "platforms of this kind will be worse off: Intel's early TCB set has it already, the standard one \
             follows about six weeks after the date of the recovery"
        );
    }
}

/// Whether `ahead` has a worse status than `today`, or an advisory more.
fn is_worse(ahead: &TcbVerdict, today: &TcbVerdict) -> bool {
    rank(ahead.status) > rank(today.status)
        || ahead.advisory_ids.iter().any(|advisory| !today.advisory_ids.contains(advisory))
}

/// Intel's order of severity.
fn rank(status: TcbStatus) -> u8 {
    match status {
        TcbStatus::UpToDate => 0,
        TcbStatus::SWHardeningNeeded => 1,
        TcbStatus::ConfigurationNeeded => 2,
        TcbStatus::ConfigurationAndSWHardeningNeeded => 3,
        TcbStatus::TDRelaunchAdvised => 4,
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded => 5,
        TcbStatus::OutOfDate => 6,
        TcbStatus::OutOfDateConfigurationNeeded => 7,
        TcbStatus::Revoked => 8,
    }
}

/// Day, month and year.
fn date(unix: u64) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp(i64::try_from(unix).ok()?).ok()?;
    Some(date.format(&Rfc3339).ok()?.chars().take(10).collect())
}
