//! What needs an operator: one list out of what the parts of this KMS know, each with where to act.

mod denials;
mod domains;
mod epochs;

use std::collections::{BTreeMap, HashSet};

use kms_attest::identity::DomainName;
use schemars::JsonSchema;
use serde::Serialize;

use self::denials::of_denials;
use super::Views;
use super::denials::Denial;
use crate::admission::TcbWarning;
use crate::api::readiness::{Cause, Effect, Report, collateral_left};
use crate::clock::rfc3339;
use crate::config::Posture;

/// A credential is shown when it ends within this time, in seconds.
const CREDENTIAL_LEFT: u64 = 14 * 86_400;
/// The same for a certificate: ours are renewed long before, others by operators.
const CERTIFICATE_LEFT: u64 = 7 * 86_400;

/// Something that needs an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Attention {
    /// Stable, for programs.
    code: String,
    severity: Severity,
    message: String,
    detail: String,
    /// When it will stop something, if that is known.
    by: Option<String>,
    /// Since when it is so, if that is known.
    since: Option<String>,
    /// When it happened last, of what may be over.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    /// How often, or how many.
    count: Option<u64>,
    link: Link,
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing, or not everything, is released.
    Critical,
    /// It will be so, or somebody waits.
    Warning,
    /// To be known.
    Info,
}

/// Where to act in the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Link {
    view: &'static str,
    id: Option<String>,
}

impl Attention {
    fn new(code: &str, severity: Severity, message: impl Into<String>, view: &'static str) -> Self {
        Self {
            code: code.to_owned(),
            severity,
            message: message.into(),
            detail: String::new(),
            by: None,
            since: None,
            last: None,
            count: None,
            link: Link { view, id: None },
        }
    }
}

/// Everything that needs an operator, the most urgent first, and by when.
pub(super) fn list(
    views: &Views,
    report: &Report,
    posture: &Posture,
    denials: &[Denial],
    choices: Vec<Attention>,
    now: u64,
) -> Vec<Attention> {
    // Those of domains are listed by domain below.
    let reasons = report.reasons().iter().filter(|reason| !reason.is_of_domains_only());
    let mut list: Vec<Attention> = reasons.map(|reason| of_cause(reason.cause, &reason.detail)).collect();
    list.extend(choices);
    list.extend(of_denials(denials, now));
    list.extend(views.of_collateral(now));
    list.extend(views.of_forecast());
    list.extend(views.of_ledger());
    list.extend(views.of_epochs(now));
    list.extend(views.of_domains(None, now));
    list.extend(views.of_credentials(None, now));
    list.extend(views.of_useless_credentials());
    list.extend(views.of_certificates(now));
    list.extend(of_relaxed(posture));
    sorted(list)
}

/// What needs an operator of one domain: its `denials`, its policy and its credentials.
pub(super) fn of_domain(views: &Views, domain: &DomainName, denials: &[Denial], now: u64) -> Vec<Attention> {
    let mut list = of_denials(denials, now);
    list.extend(views.of_domains(Some(domain), now));
    list.extend(views.of_credentials(Some(domain), now));
    sorted(list)
}

fn sorted(mut list: Vec<Attention>) -> Vec<Attention> {
    list.sort_by(|one, other| {
        let by = |item: &Attention| (item.by.is_none(), item.by.clone());
        one.severity.cmp(&other.severity).then_with(|| by(one).cmp(&by(other)))
    });
    list
}

fn of_cause(cause: Cause, detail: &str) -> Attention {
    let view = match cause {
        Cause::Frozen => "freezes",
        Cause::AllowlistUnusable
        | Cause::PolicyUnavailable
        | Cause::KmsNotAllowed
        | Cause::PolicyExpires
        | Cause::PolicyFork
        | Cause::PolicyHeld
        | Cause::DomainPolicyUnavailable => "policy",
        Cause::CollateralUnavailable | Cause::CollateralNotRefreshed => "platforms",
        Cause::AuditLogUnavailable | Cause::DiskNearlyFull => "ledger",
        Cause::NoKeys
        | Cause::Draining
        | Cause::OwnEvidenceUnavailable
        | Cause::OwnEvidenceRefused
        | Cause::Clock => "diagnostics",
        Cause::StateStale | Cause::StateNotFresh | Cause::StateRolledBack | Cause::Fleet(_) => "fleet",
        Cause::EpochsLost => "epochs",
        Cause::Recovery => "recovery",
    };
    let severity = match cause.effect() {
        Effect::Stops => Severity::Critical,
        Effect::Drains if cause == Cause::EpochsLost => Severity::Critical,
        Effect::Drains | Effect::Warns => Severity::Warning,
    };
    Attention { detail: detail.to_owned(), ..Attention::new(cause.name(), severity, cause.text(), view) }
}

fn of_relaxed(posture: &Posture) -> Option<Attention> {
    let relaxed = posture.relaxed();
    let codes: Vec<_> = posture.codes().collect();
    (!relaxed.is_empty()).then(|| Attention {
        detail: codes.join(", "),
        count: Some(relaxed.len() as u64),
        ..Attention::new(
            "relaxed_settings",
            Severity::Info,
            "Protections are switched off in the settings.",
            "settings",
        )
    })
}

impl Views {
    fn of_collateral(&self, now: u64) -> Option<Attention> {
        let left = collateral_left(self.foundation().verifier.cache())?;
        Some(Attention {
            by: Some(rfc3339(now + left)),
            ..Attention::new(
                "collateral_expires",
                Severity::Warning,
                format!("Collateral expires in {} minutes, and no service has given newer one.", left / 60),
                "platforms",
            )
        })
    }

    fn of_forecast(&self) -> Vec<Attention> {
        let forecast = self.sources.forecast.borrow();
        let mut models = BTreeMap::<[u8; 6], Vec<&TcbWarning>>::new();
        for warning in forecast.iter() {
            models.entry(warning.fmspc).or_default().push(warning);
        }
        let items = models.into_iter().map(|(fmspc, warnings)| {
            let fmspc = hex::encode(fmspc);
            let follows = warnings.iter().filter_map(|warning| warning.follows).min();
            let ahead: HashSet<&str> = warnings.iter().map(|warning| &*warning.ahead).collect();
            let ahead: Vec<_> = ahead.into_iter().collect();
            Attention {
                detail: format!("By the early TCB set: {}.", ahead.join(", ")),
                by: follows.map(rfc3339),
                count: Some(warnings.len() as u64),
                link: Link { view: "platforms", id: Some(fmspc.clone()) },
                ..Attention::new(
                    "platform_outdated_soon",
                    Severity::Warning,
                    format!("Intel's next TCB set makes platforms of model {fmspc} out of date."),
                    "platforms",
                )
            }
        });
        items.collect()
    }

    fn of_ledger(&self) -> Vec<Attention> {
        let audit = &self.foundation().audit;
        let mut list = Vec::new();
        if audit.head().is_none() {
            let message = "The audit log is not signed, so nobody else can verify it.";
            list.push(Attention::new("log_not_signed", Severity::Warning, message, "ledger"));
        }
        if audit.progress().lacks_witnesses() {
            let behind = audit.witness_states().iter().filter(|witness| !witness.is_well()).count();
            list.push(Attention {
                count: Some(behind as u64),
                ..Attention::new(
                    "witnesses_behind",
                    Severity::Warning,
                    "Too few witnesses cosign the audit log.",
                    "ledger",
                )
            });
        }
        let damaged = audit.damaged_bytes();
        if damaged > 0 {
            list.push(Attention {
                count: Some(damaged),
                ..Attention::new(
                    "log_damaged",
                    Severity::Warning,
                    format!("{damaged} bytes at the end of files of the audit log are not records."),
                    "ledger",
                )
            });
        }
        list
    }

    fn of_credentials(&self, only: Option<&DomainName>, now: u64) -> Vec<Attention> {
        let Some(credentials) = &self.sources.credentials else { return Vec::new() };
        let directory = credentials.directory();
        let shown = directory.values().filter(|it| only.is_none() || it.domain.as_ref() == only);
        let ending = shown.filter_map(|credential| {
            let end = credential.expires_at.filter(|end| *end > now && *end <= now + CREDENTIAL_LEFT)?;
            let name = credential.name.as_str();
            Some(Attention {
                by: Some(rfc3339(end)),
                link: Link { view: "credentials", id: Some(name.to_owned()) },
                ..Attention::new(
                    "credential_expires",
                    Severity::Warning,
                    format!("The credential {name} ({}) ends soon.", credential.role.name()),
                    "credentials",
                )
            })
        });
        ending.collect()
    }

    fn of_certificates(&self, now: u64) -> Vec<Attention> {
        let ending = self.sources.certificates.iter().filter_map(|(listener, certificate)| {
            let end = certificate.expires_at().filter(|end| *end <= now + CERTIFICATE_LEFT)?;
            let severity = if end <= now { Severity::Critical } else { Severity::Warning };
            Some(Attention {
                by: Some(rfc3339(end)),
                ..Attention::new(
                    "certificate_expires",
                    severity,
                    format!("The TLS certificate of the {listener} listener expires."),
                    "settings",
                )
            })
        });
        ending.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::at;
    use super::denials::MAX_GROUPS;
    use super::epochs::missing_choices;
    use super::*;
    use crate::audit::Record;
    use crate::events::{Refusal, Span, Subject};

    const NOW: u64 = 1_800_000_000;

    fn denial(id: u64, app: Option<u64>, count: u64, last: u64) -> Denial {
        let subject = app.map(|app| Subject {
            app_id: format!("{app:040x}"),
            instance_id: format!("{id:040x}"),
            ..Subject::default()
        });
        Denial::recorded(Refusal {
            denial_id: format!("{id:012x}"),
            subject,
            times: Span { first: last - 1000, last, seq: id, count },
            remote: "10.0.0.1".to_owned(),
            code: "compose_hash_not_allowed".to_owned(),
            reason: "Boot denied: compose hash not allowed".to_owned(),
            step: "policy".to_owned(),
            expected: None,
            actual: None,
            remedy: None,
        })
    }

    #[test]
    fn denials_of_the_last_hour_are_grouped_and_a_flood_of_apps_is_one_item() {
        let recent = NOW * 1000 - 60_000;
        let one_app =
            [denial(1, Some(7), 30, recent), denial(2, Some(7), 1, recent), denial(3, Some(7), 9, 5000)];
        let list = of_denials(&one_app, NOW);
        assert_eq!(list.len(), 1);
        assert_eq!(
            list[0].message,
            format!("2 CVMs of app {:040x} are refused: compose_hash_not_allowed.", 7)
        );
        assert_eq!((list[0].count, list[0].severity), (Some(31), Severity::Warning));
        assert_eq!((&list[0].since, &list[0].last), (&Some(at(recent - 1000)), &Some(at(recent))));

        let flood: Vec<_> = (0..1000).map(|id| denial(id, Some(id), 1 + id, recent)).collect();
        let list = of_denials(&flood, NOW);
        assert_eq!(list.len(), MAX_GROUPS + 1);
        assert_eq!(list[0].count, Some(1000), "the most frequent first");
        assert_eq!(list[MAX_GROUPS].message, "990 other groups of callers are refused.");
        assert_eq!(list[MAX_GROUPS].last, Some(at(recent)));
        let all: u64 = list.iter().filter_map(|item| item.count).sum();
        assert_eq!(all, 1000 * 1001 / 2);

        let strangers = of_denials(&[denial(1, None, 5, recent)], NOW);
        assert_eq!(strangers[0].severity, Severity::Info, "anyone can cause it");
        assert!(of_denials(&[], NOW).is_empty());
    }

    #[test]
    fn choices_that_did_not_come_with_the_keys_are_missed_until_they_are_fetched_or_an_owner_says_so() {
        let record = |seq: u64, kind: &str, fields: Value| {
            let mut record = serde_json::json!({ "seq": seq, "time": "2026-01-01T00:00:00Z", "event": kind });
            record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            Some(serde_json::from_value::<Record>(record).unwrap())
        };
        let none = || serde_json::json!({});
        let code = |set, received, fetched, complete| {
            missing_choices(set, received, fetched, complete).map(|item| (item.code, item.count))
        };
        let set = || record(7, "keys_restored", serde_json::json!({ "made_at": 1, "apps_with_epochs": 3 }));
        let old_set = || record(7, "keys_restored", serde_json::json!({ "made_at": 1 }));
        let as_of = |count| Some(("app_epochs_as_of".to_owned(), count));
        let (fetched, complete) = (
            |seq| record(seq, "app_epochs_received", none()),
            |seq| record(seq, "epoch_state_accepted", none()),
        );
        assert_eq!(code(set(), None, None, None), as_of(Some(3)));
        assert_eq!(code(old_set(), None, None, complete(6)), as_of(None), "that was before");
        assert_eq!(code(set(), None, fetched(8), None), as_of(Some(3)), "the source may be restored too");
        assert_eq!(code(set(), None, None, complete(8)), None);
        let told = || record(7, "keys_received", serde_json::json!({ "apps_with_epochs": 0 }));
        let untold = || record(7, "keys_received", none());
        assert_eq!(code(None, told(), None, None), None);
        assert_eq!(code(None, untold(), None, None), Some(("app_epochs_unknown".to_owned(), None)));
        assert_eq!(code(None, untold(), fetched(9), None), None);
        assert_eq!(code(None, untold(), None, complete(9)), None);
        assert_eq!(code(None, None, None, None), None, "its keys were made here");
    }
}
