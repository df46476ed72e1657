//! What the operator tolerates of Intel's verdict on a platform: applied before policy is asked, whoever it is asked
//! about, and carried by every decision that needed it.

use std::fmt;
use std::sync::Arc;

use kms_attest::collateral::Clock;
use kms_attest::identity::{BootInfo, Identity};
use kms_attest::tcb::{PartGap, TcbPart, TcbStatus, TcbVerdict};

use crate::config::{Grace, Tcb};
use crate::metrics::Metrics;

/// `[core.tcb]`, at this moment.
///
/// Intel's verdict is one status for platform, TDX module and quoting enclave, and hides some of what is wrong with
/// them. So it is the parts that are tolerated, and all of them or none: each part that is not `UpToDate` needs a grace
/// for its own status, or is the platform itself and of an exempted model. Then policy is told `UpToDate`.
///
/// A grace covers the advisories that an update of its parts would settle, for they are why these are behind; nothing
/// else covers an advisory but its name in the list. `Revoked` never gets here: such a platform does not verify.
#[derive(Debug, Clone)]
pub struct TcbTolerance {
    tcb: Tcb,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What was needed of the operator's tolerance; empty where policy was told what was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relaxations(Vec<String>);

impl Relaxations {
    /// `tcb_grace:OutOfDate`, `fmspc:b0c06f000000`, `advisory:INTEL-SA-00837`: as many as the configuration names.
    pub fn labels(&self) -> &[String] {
        &self.0
    }

    /// Whether nothing was needed.
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
    /// The identity as policy takes it, with the status and the advisories that are left.
    pub told: BootInfo,
    /// Why it differs from what was measured.
    pub relaxations: Relaxations,
}

impl TcbTolerance {
    /// What `tcb` says, by the time of `clock`; what it was needed for is counted.
    pub fn new(tcb: Tcb, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { tcb, clock, metrics }
    }

    /// What policy is to be told about the platform of `verdict`, on which `identity` runs.
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

    /// Counts and logs that `whom` was allowed by `relaxations`; `identity` is as measured.
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
                "RELAXED: policy allowed {whom}, told that its platform is better than it is (core.tcb)"
            );
        }
    }

    /// What each part that Intel objects to is tolerated by, now; empty if one of them is not, and where the collateral
    /// does not tell which they are.
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

    /// The grace that covers a part for longest, and when it ends.
    fn grace(&self, verdict: &TcbVerdict, part: &PartGap) -> Option<(&Grace, u64)> {
        let ends = |grace: &Grace| part.since().saturating_add(grace.lasts.as_secs());
        let fits = self.tcb.grace.iter().filter(|grace| is_named(grace.status, verdict, part));
        fits.map(|grace| (grace, ends(grace))).max_by_key(|(_, ends)| *ends)
    }

    /// A model stands for its firmware and microcode. Module and quoting enclave are software that can be replaced on
    /// any model.
    fn is_exempt(&self, verdict: &TcbVerdict, part: &PartGap) -> bool {
        part.part() == TcbPart::Platform && self.tcb.fmspcs.contains(&verdict.fmspc)
    }

    /// Unix seconds at which the first grace that a platform needs ends; `None` if it needs none or lacks one.
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

    /// Whether an advisory is on the list.
    pub fn has_advisory(&self, advisory: &str) -> bool {
        self.tcb.advisories.iter().any(|listed| listed.eq_ignore_ascii_case(advisory))
    }
}

/// What tolerates a part.
enum Cover<'a> {
    Grace(&'a Grace),
    Model,
}

/// Whether a grace for `named` is one for this part: it names the part's own status, or it names the verdict, and
/// the part's status is one of those that the verdict's name combines.
fn is_named(named: TcbStatus, verdict: &TcbVerdict, part: &PartGap) -> bool {
    named == part.status() || (named == verdict.status && combined(named).contains(&part.status()))
}

/// What a name of Intel's says at once.
fn combined(status: TcbStatus) -> &'static [TcbStatus] {
    use TcbStatus::{ConfigurationNeeded, OutOfDate, SWHardeningNeeded, TDRelaunchAdvised};
    match status {
        TcbStatus::OutOfDateConfigurationNeeded => &[OutOfDate, ConfigurationNeeded],
        TcbStatus::ConfigurationAndSWHardeningNeeded => &[ConfigurationNeeded, SWHardeningNeeded],
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded => &[TDRelaunchAdvised, ConfigurationNeeded],
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
