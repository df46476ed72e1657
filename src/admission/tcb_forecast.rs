//! Warns of platforms seen recently that Intel's early TCB set judges worse than the standard one does today.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_attest::tcb::{EarlyVerdict, PlatformTcb, TcbForecast, TcbForecasts, TcbStatus, TcbVerdict};
use kms_attest::verify::Verifier;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use super::TcbTolerance;
use crate::metrics::{Metrics, TcbForecastState};

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
    state: watch::Sender<TcbForecastState>,
    shown: watch::Sender<Vec<TcbWarning>>,
}

/// A kind of platform that the early set judges worse, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbWarning {
    /// The model.
    pub fmspc: [u8; 6],
    /// Its status today.
    pub today: String,
    /// Its status by the early set.
    pub ahead: String,
    /// About when the standard set follows, Unix seconds; `None` where the early set has no date.
    pub follows: Option<u64>,
    /// Advisories that it will have more.
    pub advisories: Vec<String>,
}

/// About how long after the date of a recovery the standard set follows, in seconds: six weeks.
const FOLLOWS_AFTER: u64 = 42 * 86_400;

/// The warning about one platform.
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
    /// Checks, once in each period `every`, the future TCB status of the platforms that `verifier` remembers, and puts
    /// the warnings into `shown`.
    pub fn new(
        verifier: Arc<Verifier>,
        tolerance: Arc<TcbTolerance>,
        metrics: Arc<Metrics>,
        every: Duration,
        shown: watch::Sender<Vec<TcbWarning>>,
    ) -> Self {
        Self { verifier, tolerance, metrics, every, state: watch::Sender::default(), shown }
    }

    /// What was found last.
    pub fn state(&self) -> watch::Receiver<TcbForecastState> {
        self.state.subscribe()
    }

    /// Looks until dropped.
    pub async fn refresh_loop(&self) {
        let mut told: HashMap<PlatformTcb, (Warning, Instant)> = HashMap::new();
        tokio::time::sleep(self.every.min(FIRST_LOOK)).await;
        loop {
            let found = self.verifier.tcb_forecasts().await;
            let warnings = self.warnings(&found);
            let state = TcbForecastState {
                falling_behind: warnings.len() as u64,
                recovery: warnings.iter().filter_map(|(_, warning)| warning.recovery).min(),
                newer: found.early_sets.newer as u64,
                same: found.early_sets.same as u64,
                unavailable: found.early_sets.unavailable as u64,
            };
            self.metrics.set_tcb_forecast(state);
            self.state.send_replace(state);
            self.shown
                .send_replace(warnings.iter().map(|(platform, warning)| warning.shown(platform)).collect());
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

    fn warnings(&self, found: &TcbForecasts) -> Vec<(PlatformTcb, Warning)> {
        let warning =
            |forecast: &TcbForecast| Some((forecast.platform, Warning::of(forecast, &self.tolerance)?));
        found.forecasts.iter().filter_map(warning).collect()
    }
}

impl Warning {
    /// `None` if the early set judges no worse.
    fn of(forecast: &TcbForecast, tolerance: &TcbTolerance) -> Option<Self> {
        let today = &forecast.today;
        let (ahead, verdict) = match &forecast.early {
            EarlyVerdict::Verdict(verdict) if is_worse(verdict, today, tolerance) => {
                (verdict.status.to_string(), Some(verdict))
            }
            EarlyVerdict::Verdict(_) => return None,
            EarlyVerdict::Refused(reason) => (format!("refused: {reason}"), None),
        };
        let advisories = verdict.map(|verdict| new_advisories(verdict, today, tolerance).cloned().collect());
        Some(Self {
            today: today.status.to_string(),
            ahead,
            advisories: advisories.unwrap_or_default(),
            recovery: verdict.and_then(|verdict| verdict.gap.as_ref()).map(|gap| gap.since()),
            tolerated_until: verdict.and_then(|verdict| tolerance.grace_ends(verdict)),
        })
    }

    fn shown(&self, platform: &PlatformTcb) -> TcbWarning {
        TcbWarning {
            fmspc: platform.model.fmspc,
            today: self.today.clone(),
            ahead: self.ahead.clone(),
            follows: self.recovery.map(|recovery| recovery.saturating_add(FOLLOWS_AFTER)),
            advisories: self.advisories.clone(),
        }
    }

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

/// Whether `ahead` has a worse status than `today`, or an advisory more that is not tolerated.
fn is_worse(ahead: &TcbVerdict, today: &TcbVerdict, tolerance: &TcbTolerance) -> bool {
    rank(ahead.status) > rank(today.status) || new_advisories(ahead, today, tolerance).next().is_some()
}

fn new_advisories<'a>(
    ahead: &'a TcbVerdict,
    today: &'a TcbVerdict,
    tolerance: &'a TcbTolerance,
) -> impl Iterator<Item = &'a String> {
    let is_new =
        |advisory: &&String| !today.advisory_ids.contains(advisory) && !tolerance.has_advisory(advisory);
    ahead.advisory_ids.iter().filter(is_new)
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

#[cfg(test)]
mod tests {
    use kms_attest::collateral::{CaKind, Clock, PlatformKey};

    use super::*;

    fn verdict(status: TcbStatus, advisories: &[&str]) -> TcbVerdict {
        let advisory_ids = advisories.iter().map(|id| (*id).to_owned()).collect();
        TcbVerdict { status, advisory_ids, fmspc: [0; 6], gap: None }
    }

    fn warning(today: TcbVerdict, early: EarlyVerdict) -> Option<Warning> {
        let platform = PlatformTcb {
            model: PlatformKey { fmspc: [0; 6], ca: CaKind::Platform },
            cpu_svn: [0; 16],
            pce_svn: 0,
            tee_tcb_svn: [0; 16],
            tee_tcb_svn2: None,
            qe_isv_svn: 0,
        };
        let (config, _) =
            crate::config::Config::from_toml("core.tcb.advisories = ['INTEL-SA-00837']").expect("valid");
        let tolerance = TcbTolerance::new(config.core.tcb, Clock::fixed(0), Arc::new(Metrics::new([])));
        Warning::of(&TcbForecast { platform, seen_at: 0, today, early }, &tolerance)
    }

    #[test]
    fn only_what_gets_worse_is_warned_of() {
        use TcbStatus::{ConfigurationNeeded, OutOfDate, UpToDate};
        let fine = || verdict(UpToDate, &[]);
        for (today, ahead, is_worse) in [
            (fine(), fine(), false),
            (fine(), verdict(OutOfDate, &[]), true),
            (verdict(OutOfDate, &[]), fine(), false),
            (verdict(OutOfDate, &["INTEL-SA-00960"]), verdict(ConfigurationNeeded, &[]), false),
            (verdict(OutOfDate, &[]), verdict(OutOfDate, &["INTEL-SA-00960"]), true),
            (verdict(OutOfDate, &["INTEL-SA-00960"]), verdict(OutOfDate, &["INTEL-SA-00960"]), false),
            (fine(), verdict(UpToDate, &["intel-sa-00837"]), false),
        ] {
            let warned = warning(today.clone(), EarlyVerdict::Verdict(ahead.clone())).is_some();
            assert_eq!(warned, is_worse, "{today:?} to {ahead:?}");
        }
        let refused =
            warning(fine(), EarlyVerdict::Refused("TCB status is invalid: Revoked".into())).expect("worse");
        assert_eq!(refused.ahead, "refused: TCB status is invalid: Revoked");
        assert_eq!((refused.recovery, refused.tolerated_until), (None, None));
    }

    #[test]
    fn dates_are_days() {
        assert_eq!(date(1_790_812_800).as_deref(), Some("2026-10-01"));
        assert_eq!(date(u64::MAX), None);
    }
}
