//! The TCB statuses and advisories that the operator tolerates. They are applied before policy is asked about
//! an app or a KMS, and each decision that needed them records them.

use std::fmt;
use std::sync::Arc;

use kms_attest::collateral::Clock;
use kms_attest::identity::{BootInfo, Identity};
use kms_attest::tcb::{PartGap, TcbPart, TcbStatus, TcbVerdict};

use crate::config::{Grace, Tcb};
use crate::metrics::Metrics;

/// `[core.tcb]`, applied at the current time.
///
/// Intel's verdict is one status for platform, TDX module and quoting enclave, and it hides some of their
/// problems. Therefore each part is tolerated by itself: each part that is not `UpToDate` needs a grace
/// period for its own status, or it is the platform and of an exempt model. If all parts are tolerated,
/// policy is told `UpToDate`.
///
/// A grace period covers the advisories that an update of its parts would settle. Any other advisory must be
/// listed by name. `Revoked` does not occur here, because such a platform does not verify.
#[derive(Debug, Clone)]
pub struct TcbTolerance {
    tcb: Tcb,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// The tolerated exceptions that a decision needed; empty if policy was told what was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relaxations(Vec<String>);

impl Relaxations {
    /// `tcb_grace:OutOfDate`, `fmspc:b0c06f000000`, `advisory:INTEL-SA-00837`: as many as the configuration
    /// names.
    pub fn labels(&self) -> &[String] {
        &self.0
    }

    /// Whether no exception was needed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Relaxations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// What policy is told about a guest.
#[derive(Debug)]
pub struct Tolerated {
    /// The identity in the form that policy takes, with the status and the advisories that remain.
    pub told: BootInfo,
    /// The exceptions by which it differs from what was measured.
    pub relaxations: Relaxations,
}

impl TcbTolerance {
    /// Applies `tcb` at the time of `clock`, and counts the decisions that needed it.
    pub fn new(tcb: Tcb, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { tcb, clock, metrics }
    }

    /// Where decisions are counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What policy is told about `identity`, which runs on the platform of `verdict`.
    pub fn apply(&self, verdict: &TcbVerdict, identity: &Identity) -> Tolerated {
        let covers = self.covers(verdict);
        let is_by_grace = |part: &PartGap| {
            covers.iter().any(|(covered, by)| *covered == part && matches!(by, Cover::Grace(_)))
        };
        let covered = verdict.gap.as_ref().map(|gap| gap.settled_by_update(is_by_grace)).unwrap_or_default();
        let mut relaxations = Vec::new();
        for (_, by) in &covers {
            let label = match by {
                Cover::Grace(grace) => format!("tcb_grace:{}", grace.status),
                Cover::Model => format!("fmspc:{}", hex::encode(verdict.fmspc)),
            };
            if !relaxations.contains(&label) {
                relaxations.push(label);
            }
        }
        let is_status_tolerated = !relaxations.is_empty();
        let mut left = Vec::new();
        for advisory in identity.advisory_ids.iter().filter(|advisory| !covered.contains(&advisory.as_str()))
        {
            match self.tcb.advisories.iter().find(|listed| listed.eq_ignore_ascii_case(advisory)) {
                Some(listed) => relaxations.push(format!("advisory:{listed}")),
                None => left.push(advisory.clone()),
            }
        }
        let mut told = BootInfo::from(identity);
        told.advisory_ids = left;
        if is_status_tolerated {
            told.tcb_status = TcbStatus::UpToDate.to_string();
        }
        Tolerated { told, relaxations: Relaxations(relaxations) }
    }

    /// Counts and logs that `whom` was allowed by `relaxations`. `identity` is the measured one.
    pub fn needed(&self, relaxations: &Relaxations, identity: &Identity, whom: &'static str) {
        for label in relaxations.labels() {
            self.metrics.relaxed_decision(label);
        }
        if !relaxations.is_empty() {
            tracing::warn!(
                %relaxations,
                status = identity.tcb_status.to_string(),
                advisories = identity.advisory_ids.join(", "),
                app_id = hex::encode(identity.app_id),
                device_id = hex::encode(identity.device_id),
                "RELAXED: policy allowed {whom} after core.tcb hid TCB statuses or advisories of its platform"
            );
        }
    }

    /// The exception that covers each part that is not up to date; empty if a part has none, or if the
    /// collateral does not tell the parts.
    fn covers<'a>(&'a self, verdict: &'a TcbVerdict) -> Vec<(&'a PartGap, Cover<'a>)> {
        let Some(gap) = verdict.gap.as_ref().filter(|_| verdict.status != TcbStatus::UpToDate) else {
            return Vec::new();
        };
        let now = self.clock.now();
        let cover = |part: &'a PartGap| {
            let in_time = self.grace(verdict, part).filter(|(_, ends)| now <= *ends);
            let by = match in_time {
                Some((grace, _)) => Some(Cover::Grace(grace)),
                None => self.is_exempt(verdict, part).then_some(Cover::Model),
            };
            Some((part, by?))
        };
        gap.parts().iter().map(cover).collect::<Option<_>>().unwrap_or_default()
    }

    /// The grace period that covers a part for longest, and its end.
    fn grace(&self, verdict: &TcbVerdict, part: &PartGap) -> Option<(&Grace, u64)> {
        let ends = |grace: &Grace| part.since().saturating_add(grace.lasts.as_secs());
        let fits = self.tcb.grace.iter().filter(|grace| is_named(grace.status, verdict, part));
        fits.map(|grace| (grace, ends(grace))).max_by_key(|(_, ends)| *ends)
    }

    /// Whether the model of the platform is exempt. That covers its firmware and microcode only, because TDX
    /// module and quoting enclave are software that can be replaced on any model.
    fn is_exempt(&self, verdict: &TcbVerdict, part: &PartGap) -> bool {
        part.part() == TcbPart::Platform && self.tcb.fmspcs.contains(&verdict.fmspc)
    }

    /// Unix seconds at which the first grace period that a platform needs ends; `None` if it needs none or
    /// lacks one.
    pub fn grace_ends(&self, verdict: &TcbVerdict) -> Option<u64> {
        let mut first: Option<u64> = None;
        for part in verdict.gap.as_ref()?.parts() {
            if self.is_exempt(verdict, part) {
                continue;
            }
            let (_, ends) = self.grace(verdict, part)?;
            first = Some(first.map_or(ends, |first| first.min(ends)));
        }
        first
    }

    /// Whether an advisory is listed.
    pub fn has_advisory(&self, advisory: &str) -> bool {
        self.tcb.advisories.iter().any(|listed| listed.eq_ignore_ascii_case(advisory))
    }
}

/// The exception that covers a part.
enum Cover<'a> {
    Grace(&'a Grace),
    Model,
}

/// Whether a grace period for `named` applies to this part: `named` is the part's own status, or it is the
/// status of the verdict and combines the part's status with another one.
fn is_named(named: TcbStatus, verdict: &TcbVerdict, part: &PartGap) -> bool {
    named == part.status() || (named == verdict.status && combined(named).contains(&part.status()))
}

/// The statuses that a combined status of Intel's stands for.
fn combined(status: TcbStatus) -> &'static [TcbStatus] {
    use TcbStatus::{ConfigurationNeeded, OutOfDate, SWHardeningNeeded, TDRelaunchAdvised};
    match status {
        TcbStatus::OutOfDateConfigurationNeeded => &[OutOfDate, ConfigurationNeeded],
        TcbStatus::ConfigurationAndSWHardeningNeeded => &[ConfigurationNeeded, SWHardeningNeeded],
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded => &[TDRelaunchAdvised, ConfigurationNeeded],
        TcbStatus::UpToDate
        | TcbStatus::OutOfDate
        | TcbStatus::ConfigurationNeeded
        | TcbStatus::SWHardeningNeeded
        | TcbStatus::TDRelaunchAdvised
        | TcbStatus::Revoked => &[],
    }
}

#[cfg(test)]
mod tests;
