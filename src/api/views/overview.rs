//! The overview: what this KMS is, whether it releases keys, what it has done, and what needs an operator.

use std::collections::HashSet;
use std::time::Instant;

use kms_attest::identity::DomainName;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::attention::{self, Attention};
use super::{Building, SHOWN_AGAIN, Views, at};
use crate::api::epochs::EpochSummary;
use crate::api::readiness::{Cause, Effect, Report};
use crate::api::settings::SettingsService;
use crate::clock::{rfc3339, unix_now};
use crate::config::Posture;
use crate::error::Result;
use crate::operator::DomainScope;

/// A day in milliseconds.
const DAY: u64 = 86_400_000;

/// The state of this KMS at a glance.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Overview {
    /// `draining` while an operator drains this KMS, `restart_required` while settings wait for a restart, otherwise
    /// `serving`: the admin listener is there as soon as keys are.
    mode: &'static str,
    version: &'static str,
    /// Another one at each start.
    boot_id: String,
    started_at: String,
    server_time: String,
    /// The domain of the server certificate.
    name: String,
    /// SHA-256 of the compressed secp256k1 root key, hexadecimal; replicas have the same.
    root_fingerprint: String,
    /// SHA-256 of the root CA's SubjectPublicKeyInfo, hexadecimal.
    ca_fingerprint: String,
    /// The epochs of the root keys.
    epochs: EpochSummary,
    /// The OS image that this KMS itself runs on, as measured; null if it is not known.
    os_image_hash: Option<String>,
    /// Whether keys are released and requests should come here.
    ready: bool,
    /// What stops the release of keys, or will soon.
    reasons: Vec<Reason>,
    relaxed: Vec<Relaxed>,
    /// What needs an operator, the most urgent first.
    attention: Vec<Attention>,
    last_24h: LastDay,
    latency: Latency,
    ledger: LedgerSummary,
    /// The number of CVMs in the inventory.
    cvms: Option<u64>,
    /// Null unless the counts are not complete yet.
    building: Option<Building>,
}

/// The overview of this KMS, or of the domain of a credential that is limited to one.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OverviewShown {
    /// Of the whole KMS.
    Whole(Box<Overview>),
    /// Of one domain.
    Domain(Box<DomainOverview>),
}

/// The state of a domain at a glance. What is about the whole KMS is left out.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DomainOverview {
    /// Its name.
    domain: String,
    /// Whether it is archived, so that nothing is released in it.
    archived: bool,
    version: &'static str,
    server_time: String,
    /// The domain of the server certificate.
    name: String,
    /// SHA-256 of the compressed secp256k1 root key, hexadecimal; replicas have the same.
    root_fingerprint: String,
    /// Whether keys are released in it and requests should come here.
    ready: bool,
    /// What needs an operator of the domain, the most urgent first.
    attention: Vec<Attention>,
    last_24h: LastDay,
    /// The number of its CVMs in the inventory.
    cvms: Option<u64>,
    /// Null unless the counts are not complete yet.
    building: Option<Building>,
}

/// A reason why this KMS is not ready, or soon will not be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reason {
    code: &'static str,
    message: &'static str,
    /// More for operators; may be empty.
    detail: String,
    /// Whether nothing is released because of it.
    stops: bool,
}

/// A relaxed setting.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Relaxed {
    setting: &'static str,
    /// Which protection is missing.
    message: String,
}

/// The last 24 hours. Null: the index is not available.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct LastDay {
    releases: Option<u64>,
    /// CVMs with a release.
    cvms: Option<u64>,
    /// Their apps.
    apps: Option<u64>,
    denials: Option<u64>,
    /// Denials that differ in caller or code, over restarts; at most as many as are kept.
    distinct_denials: Option<u64>,
    /// CVMs that were refused, or addresses without a verified CVM.
    denied_cvms: Option<u64>,
}

/// How long releases of the last 24 hours took, since the last start at most; null without any.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Latency {
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// Of the last syncs of the audit log, which are a part of it.
    ledger_p99_ms: Option<f64>,
}

/// The ledger in short.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LedgerSummary {
    /// The number of leaves; null before anything is signed.
    size: Option<u64>,
    /// The time of the newest record; each is signed with the next checkpoint.
    checkpoint_at: Option<String>,
    /// Witnesses that have cosigned the newest checkpoint or one shortly before it.
    witnesses_ok: usize,
    witnesses: usize,
    /// How many a release needs.
    required: usize,
}

/// What is counted for the overview.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    releases: u64,
    denials: u64,
    cvms: u64,
    apps: u64,
    known: u64,
    building: Option<Building>,
}

impl Views {
    /// The overview of what `scope` has. It is there without the index too, with fewer counts.
    ///
    /// # Errors
    /// None today.
    pub async fn overview(&self, scope: &DomainScope) -> Result<OverviewShown> {
        match scope.only() {
            None => Ok(OverviewShown::Whole(Box::new(self.overview_of_kms().await))),
            Some(domain) => Ok(OverviewShown::Domain(Box::new(self.overview_of(domain, scope).await))),
        }
    }

    async fn overview_of(&self, domain: &DomainName, scope: &DomainScope) -> DomainOverview {
        let now = unix_now();
        let sources = &self.sources;
        let counted = self.counted(Some(domain), now).await.ok();
        let denials = self.all_denials(scope).await.ok();
        let last_24h = LastDay::of(counted.as_ref(), denials.as_deref(), now);
        let archived = self.foundation().domains.named(domain).is_none_or(|domain| domain.archived.is_some());
        DomainOverview {
            domain: domain.to_string(),
            archived,
            version: env!("CVM_KMS_VERSION"),
            server_time: rfc3339(now),
            name: sources.ready.domain().as_str().to_owned(),
            root_fingerprint: hex::encode(Sha256::digest(sources.ready.k256_public_key())),
            ready: sources.readiness.report().is_ready() && !archived,
            attention: attention::of_domain(self, domain, denials.as_deref().unwrap_or_default(), now),
            last_24h,
            cvms: counted.as_ref().map(|counted| counted.known),
            building: counted.and_then(|counted| counted.building),
        }
    }

    async fn overview_of_kms(&self) -> Overview {
        let now = unix_now();
        let sources = &self.sources;
        let report = sources.readiness.report();
        let posture = sources.meta.relaxed();
        let counted = self.counted(None, now).await.ok();
        let denials = self.all_denials(&DomainScope::WHOLE_KMS).await.ok();
        let last_24h = LastDay::of(counted.as_ref(), denials.as_deref(), now);
        let choices = [self.of_lost_choices().await, self.of_missing_choices().await];
        let choices = choices.into_iter().flatten().collect();
        let denials = denials.as_deref().unwrap_or_default();
        let attention = attention::list(self, &report, &posture, denials, choices, now);
        let latency = sources.latency.last_day();
        let syncs = self.foundation().metrics.ledger_syncs().recent;
        let own = self.foundation().self_authorization.told_identity();
        Overview {
            mode: mode(&report, &sources.settings),
            version: env!("CVM_KMS_VERSION"),
            boot_id: sources.boot_id.clone(),
            started_at: rfc3339(sources.started),
            server_time: rfc3339(now),
            name: sources.ready.domain().as_str().to_owned(),
            root_fingerprint: hex::encode(Sha256::digest(sources.ready.k256_public_key())),
            ca_fingerprint: hex::encode(Sha256::digest(sources.ready.ca_public_key())),
            epochs: EpochSummary::of(&sources.ready),
            os_image_hash: own.map(|own| hex::encode(own.os_image_hash)).filter(|hash| !hash.is_empty()),
            ready: report.is_ready(),
            reasons: reasons(&report),
            relaxed: relaxed(&posture),
            attention,
            last_24h,
            latency: Latency {
                p50_ms: latency.quantile(0.5),
                p99_ms: latency.quantile(0.99),
                ledger_p99_ms: syncs.map(|syncs| syncs.p99_ms),
            },
            ledger: self.ledger_summary(),
            cvms: counted.as_ref().map(|counted| counted.known),
            building: counted.and_then(|counted| counted.building),
        }
    }

    /// The counts of the KMS or of one domain, at most two seconds old. Callers that come at the same time share them.
    async fn counted(&self, domain: Option<&DomainName>, now: u64) -> Result<Counted> {
        let mut counts = self.counts.lock().await;
        if let Some((when, counted)) = counts.get(&domain.cloned())
            && when.elapsed() < SHOWN_AGAIN
        {
            return Ok(counted.clone());
        }
        let newest = self.sources.events.acknowledged();
        let since = (now * 1000).saturating_sub(DAY);
        let of = domain.cloned();
        let counted = self
            .inventory(move |inventory| {
                let of = of.as_ref();
                let minutes = 24 * 60;
                let from = (now / 60 + 1 - minutes) * 60_000;
                let steps = usize::try_from(minutes).unwrap_or(0);
                let history = match of {
                    None => inventory.history(from, 60, steps)?,
                    Some(domain) => inventory.history_of(domain, from, 60, steps)?,
                };
                let active = inventory.active(since, of)?;
                Ok(Counted {
                    releases: history.iter().map(|counts| counts.releases).sum(),
                    denials: history.iter().map(|counts| counts.refusals).sum(),
                    cvms: active.cvms,
                    apps: active.apps,
                    known: inventory.count(of)?,
                    building: Building::of(inventory, newest)?,
                })
            })
            .await?;
        counts.insert(domain.cloned(), (Instant::now(), counted.clone()));
        Ok(counted)
    }

    fn ledger_summary(&self) -> LedgerSummary {
        let audit = &self.foundation().audit;
        let state = audit.witness_states();
        LedgerSummary {
            size: audit.head().map(|head| head.size.get()),
            checkpoint_at: audit.signed_at().map(|signed| at(signed * 1000)),
            witnesses_ok: state.iter().filter(|witness| witness.is_well()).count(),
            witnesses: state.len(),
            required: self.sources.required_witnesses,
        }
    }
}

impl LastDay {
    fn of(counted: Option<&Counted>, denials: Option<&[super::denials::Denial]>, now: u64) -> Self {
        let since = (now * 1000).saturating_sub(DAY);
        let recent = denials.map(|denials| denials.iter().filter(|denial| denial.last >= since));
        // After a restart the same refusal has another id.
        let distinct = recent.clone().map(|denials| {
            denials.map(|denial| (denial.caller(), &*denial.code)).collect::<HashSet<_>>().len() as u64
        });
        Self {
            releases: counted.map(|counted| counted.releases),
            cvms: counted.map(|counted| counted.cvms),
            apps: counted.map(|counted| counted.apps),
            denials: counted.map(|counted| counted.denials),
            distinct_denials: distinct,
            denied_cvms: recent.map(|denials| {
                denials.map(super::denials::Denial::caller).collect::<HashSet<_>>().len() as u64
            }),
        }
    }
}

fn mode(report: &Report, settings: &SettingsService) -> &'static str {
    let is_draining = report.reasons().iter().any(|reason| reason.cause == Cause::Draining);
    match (is_draining, settings.needs_restart()) {
        (true, _) => Cause::Draining.name(),
        (false, true) => "restart_required",
        (false, false) => "serving",
    }
}

fn reasons(report: &Report) -> Vec<Reason> {
    let reasons = report.reasons().iter().map(|reason| Reason {
        code: reason.cause.name(),
        message: reason.cause.text(),
        detail: reason.detail_for(&DomainScope::WHOLE_KMS),
        stops: reason.cause.effect() == Effect::Stops,
    });
    reasons.collect()
}

fn relaxed(posture: &Posture) -> Vec<Relaxed> {
    let relaxed = posture.relaxed().iter();
    relaxed.map(|it| Relaxed { setting: it.code.name(), message: it.sentence.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::denials::Denial;
    use super::*;
    use crate::events::{Refusal, Span, Subject};

    const NOW: u64 = 1_800_000_000;

    fn denial(id: u64, instance: Option<u64>, code: &str, last: u64) -> Denial {
        let subject = instance.map(|instance| Subject {
            app_id: format!("{:040x}", 7),
            instance_id: format!("{instance:040x}"),
            ..Subject::default()
        });
        Denial::recorded(Refusal {
            denial_id: format!("{id:012x}"),
            subject,
            times: Span { first: last - 1000, last, seq: id, count: 3 },
            remote: "10.0.0.1".to_owned(),
            code: code.to_owned(),
            reason: "Boot denied".to_owned(),
            step: "policy".to_owned(),
            expected: None,
            actual: None,
            remedy: None,
        })
    }

    #[test]
    fn a_refusal_that_is_repeated_after_a_restart_is_one_distinct_denial() {
        let recent = NOW * 1000 - 60_000;
        let list = [
            denial(1, Some(1), "compose_hash_not_allowed", recent),
            denial(2, Some(1), "compose_hash_not_allowed", recent - 1000),
            denial(3, Some(1), "device_not_allowed", recent),
            denial(4, Some(2), "compose_hash_not_allowed", recent),
            denial(5, None, "bad_evidence", recent),
            denial(6, None, "bad_evidence", recent - 1000),
            denial(7, Some(3), "compose_hash_not_allowed", NOW * 1000 - DAY - 1),
        ];
        let day = LastDay::of(None, Some(&list), NOW);
        assert_eq!((day.distinct_denials, day.denied_cvms), (Some(4), Some(3)));
        assert_eq!(LastDay::of(None, None, NOW).distinct_denials, None);
    }
}
