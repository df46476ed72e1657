//! What the operator tolerates of Intel's verdict on a platform: applied before policy is asked, whoever it is asked
//! about, and carried by every decision that needed it.

use std::{borrow::Cow, fmt, sync::Arc};

use kms_attest::{
    collateral::Clock,
    identity::BootInfo,
    tcb::{TcbStatus, TcbVerdict},
};

use crate::{config::Tcb, metrics::Metrics};

/// `[core.tcb]`, at this moment.
///
/// A status within its grace, or of an exempted model, is `UpToDate` for policy. A grace covers the advisories that an
/// update would settle, for they are why the platform is behind; nothing else covers an advisory but its name in the
/// list. `Revoked` never gets here: such a platform does not verify.
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

/// What policy is told about somebody, and what it took.
#[derive(Debug)]
pub struct Tolerated<'a> {
    /// The identity with the status and the advisories that are left.
    pub shown: Cow<'a, BootInfo>,
    /// Why it differs from what was measured.
    pub relaxations: Relaxations,
}

impl TcbTolerance {
    /// What `tcb` says, by the time of `clock`; what it was needed for is counted.
    pub fn new(tcb: Tcb, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { tcb, clock, metrics }
    }

    /// What policy is to be told about the platform of `verdict`, on which `identity` runs.
    pub fn apply<'a>(&self, verdict: &TcbVerdict, identity: &'a BootInfo) -> Tolerated<'a> {
        let mut relaxations = Vec::new();
        let mut covered: &[String] = &[];
        if verdict.status == TcbStatus::UpToDate {
            // Nothing to tolerate but advisories.
        } else if self.grace_ends(verdict).is_some_and(|end| self.clock.now() <= end) {
            relaxations.push(format!("tcb_grace:{}", verdict.status));
            covered = verdict.lag.as_ref().map_or(&[], |lag| lag.settled_by_update());
        } else if self.tcb.fmspcs.contains(&verdict.fmspc) {
            relaxations.push(format!("fmspc:{}", hex::encode(verdict.fmspc)));
        }
        let is_status_tolerated = !relaxations.is_empty();
        let mut left = Vec::new();
        for advisory in identity.advisory_ids.iter().filter(|advisory| !covered.contains(advisory)) {
            match self.tcb.advisories.iter().find(|listed| listed.eq_ignore_ascii_case(advisory)) {
                Some(listed) => relaxations.push(format!("advisory:{listed}")),
                None => left.push(advisory.clone()),
            }
        }
        if relaxations.is_empty() {
            return Tolerated { shown: Cow::Borrowed(identity), relaxations: Relaxations::default() };
        }
        let mut shown = identity.clone();
        shown.advisory_ids = left;
        if is_status_tolerated {
            shown.tcb_status = TcbStatus::UpToDate.to_string();
        }
        Tolerated { shown: Cow::Owned(shown), relaxations: Relaxations(relaxations) }
    }

    /// Counts and logs that `whom` was allowed by `relaxations`; `identity` is as measured.
    pub fn needed(&self, relaxations: &Relaxations, identity: &BootInfo, whom: &'static str) {
        for label in relaxations.labels() {
            self.metrics.relaxed_decision(label);
        }
        if !relaxations.is_empty() {
            tracing::warn!(
                %relaxations,
                status = identity.tcb_status,
                advisories = identity.advisory_ids.join(", "),
                app_id = hex::encode(&identity.app_id),
                device_id = hex::encode(&identity.device_id),
                "RELAXED: policy allowed {whom}, told that its platform is better than it is (core.tcb)"
            );
        }
    }

    /// Unix seconds at which the grace of a platform ends; `None` if its status has none.
    pub fn grace_ends(&self, verdict: &TcbVerdict) -> Option<u64> {
        let grace = self.tcb.grace.iter().find(|grace| grace.status == verdict.status)?;
        Some(verdict.lag.as_ref()?.since().saturating_add(grace.lasts.as_secs()))
    }

    /// Whether an advisory is on the list.
    pub fn has_advisory(&self, advisory: &str) -> bool {
        self.tcb.advisories.iter().any(|listed| listed.eq_ignore_ascii_case(advisory))
    }
}

#[cfg(test)]
mod tests;
